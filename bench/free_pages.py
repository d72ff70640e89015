#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""What do pages cost that need not move?

A stock Linux guest of 2 GiB, freshly booted; after it wrote 60 % of its memory
and freed it; and with as much of a disk in its page cache; is moved by godwit
with each source of knowledge about free pages on and off, and by QEMU: plain,
with multifd, with the free page hints of its balloon. All of it in turn, in one
run.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import lab
from populated import ram_files

MIB = 1 << 20
BALLOON = ["-device", "virtio-balloon"]
REPORTING = ["-device", "virtio-balloon,free-page-reporting=on"]
HINT = ["-object", "iothread,id=hints",
        "-device", "virtio-balloon,free-page-hint=on,iothread=hints"]


class Side:
    def __init__(self, name, own=False, devices=BALLOON, options=(),
                 capabilities=(), run=(), guest=""):
        self.name, self.own, self.devices = name, own, devices
        self.options, self.capabilities = options, capabilities
        self.run, self.guest = list(run), guest


SIDES = [
    Side("godwit, skip-zero-pages=off", options=["--skip-zero-pages=off"]),
    Side("godwit"),
    Side("godwit, free-page-reporting", devices=REPORTING),
    Side("godwit, free-page-hint=agent",
         options=["--free-page-hint", "agent"], run=["--free-page-agent"],
         guest=" agent=on"),
    Side("QEMU", own=True),
    Side("QEMU, multifd", own=True, capabilities=["multifd"]),
    Side("QEMU, free-page-hint", own=True, devices=HINT),
]


def has_agent():
    out = subprocess.run([lab.GODWIT, "migrate", "--help"],
                         stdout=subprocess.PIPE, text=True).stdout
    return "--free-page-hint" in out


def settle(guest):
    """Until no more pages are reported free: they come every two seconds."""
    last, same = None, 0
    for _ in range(60):
        time.sleep(1)
        now = ram_files(guest.proc.pid) // (8 * MIB)
        same = same + 1 if now == last else 0
        last = now
        if same == 5:
            return


def set_capabilities(guest, names):
    guest.wait_qmp()("migrate-set-capabilities", capabilities=[
        {"capability": n, "state": True} for n in names])


def one(bench, options, side, guest, disk):
    bench.extra = lambda own: side.devices + disk
    bench.run_options = side.run
    options.guest = guest + side.guest
    try:
        a, b = bench.pair(side.own)
        if side.devices is REPORTING:
            settle(a)
        if side.capabilities:
            for x in a, b:
                set_capabilities(x, side.capabilities)
        used = 0 if side.own else ram_files(a.proc.pid)
        m = bench.qemu_move(a, b) if side.own else \
            bench.godwit_move(a, b, *side.options)
        b.wait_tick(a.console.ticks[-1].n + 3)
        lab.gap_ms(a, b)  # raises if the guest is damaged
        return {"total-ms": m.total, "downtime-ms": m.downtime,
                "sent-mib": m.sent / MIB, "used-mib": used / MIB,
                "raw": m.raw}
    finally:
        bench.kill()


def make_disk(bench, mib):
    path = os.path.join("/var/tmp", f"godwit-bench.{os.getpid()}.img")
    subprocess.run([os.path.join(lab.TOP, "scripts", "make-disk"), path,
                    str(mib)], check=True, stdout=subprocess.DEVNULL,
                   env=dict(os.environ, GODWIT_DEPS=lab.DEPS))
    return path


def run(bench, options):
    say = (lambda _: None) if options.json else \
        (lambda text: print(text, flush=True))
    sixty = options.memory * 6 // 10
    path = make_disk(bench, sixty)
    disk = ["-drive", f"file={path},format=raw,if=virtio,readonly=on"]
    base = options.guest
    scenes = {"fresh boot": (base, []),
              f"{sixty} MiB written and freed":
              (f"{base} gw.free={sixty}", []),
              f"{sixty} MiB of page cache": (f"{base} gw.cache={sixty}", disk)}
    sides = [s for s in SIDES if s.options[:1] != ["--free-page-hint"] or
             has_agent()]
    results = {scene: {s.name: [] for s in sides} for scene in scenes}
    try:
        for i in range(options.runs):
            for scene, (guest, drive) in scenes.items():
                for side in sides:
                    r = one(bench, options, side, guest, drive)
                    results[scene][side.name].append(r)
                    say(f"{i + 1}/{options.runs} {scene}, {side.name}: " +
                        "  ".join(f"{k} {v:.0f}" for k, v in r.items()
                                  if k != "raw"))
    finally:
        os.unlink(path)
        options.guest = base
    med = {scene: {side: {k: statistics.median(r[k] for r in rs)
                          for k in rs[0] if k != "raw"}
                   for side, rs in by.items()}
           for scene, by in results.items()}
    if options.json:
        print(json.dumps({"bench": "free_pages", "runs": options.runs,
                          "memory-mib": options.memory, "median": med,
                          "sides": results}, indent=2))
        return 0
    print(f"\n{options.memory} MiB, medians of {options.runs}")
    for scene, by in med.items():
        print(f"\n{scene:32}{'total ms':>10}{'downtime ms':>13}"
              f"{'sent MiB':>10}{'used MiB':>10}")
        for side, m in by.items():
            print(f"{side:32}{m['total-ms']:10.0f}{m['downtime-ms']:13.1f}"
                  f"{m['sent-mib']:10.1f}" +
                  (f"{m['used-mib']:10.0f}" if m["used-mib"] else ""))
    return 0


if __name__ == "__main__":
    sys.exit(lab.main(run, lab.arguments(
        argparse.ArgumentParser(prog="free_pages.py", description=__doc__,
                                formatter_class=argparse.
                                RawDescriptionHelpFormatter),
        runs=3, memory=2048, guest="gw.tick=20")))
