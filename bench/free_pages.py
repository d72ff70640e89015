#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""What do pages cost that need not move?

A stock Linux guest of 2 GiB, freshly booted; after it wrote 60 % of its memory
and freed it; and with as much of a disk in its page cache; is moved by godwit
with each source of knowledge about free pages on and off, and by QEMU: plain,
with multifd, with the free page hints of its balloon. All of it in turn, in one
run.
"""
import functools
import os
import subprocess
import sys
import time

import lab
import measure
import report
from populated import ram_files

METRICS = [*lab.move_metrics("total-ms", "downtime-ms", "sent-bytes"),
           report.Metric("used", "used, MiB", 1 / lab.MIB)]
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


def settle(guest):
    """Until no more pages are reported free: they come every two seconds."""
    last, same = None, 0
    for _ in range(60):
        time.sleep(1)
        now = ram_files(guest.proc.pid) // (8 * lab.MIB)
        same = same + 1 if now == last else 0
        last = now
        if same == 5:
            return


def one(bench, options, side, guest, disk):
    bench.extra = lambda own: side.devices + disk
    bench.run_options = side.run
    options.guest = guest + side.guest
    try:
        a, b = bench.pair(side.own)
        if side.devices is REPORTING:
            settle(a)
        used = None if side.own else ram_files(a.proc.pid)
        m = bench.qemu_move(a, b, *side.capabilities) if side.own else \
            bench.godwit_move(a, b, *side.options)
        b.wait_tick(a.console.ticks[-1].n + 3)
        lab.gap_ms(a, b)  # raises if the guest is damaged
        return {**m.values(), "used": used}
    finally:
        bench.kill()


def make_disk(bench, mib):
    path = os.path.join("/var/tmp", f"godwit-bench.{os.getpid()}.img")
    subprocess.run([os.path.join(lab.TOP, "scripts", "make-disk"), path,
                    str(mib)], check=True, stdout=subprocess.DEVNULL,
                   env=dict(os.environ, GODWIT_DEPS=lab.DEPS))
    return path


def cases(bench, options):
    sixty = options.memory * 6 // 10
    path = make_disk(bench, sixty)
    bench.cleanup.callback(os.unlink, path)
    disk = ["-drive", f"file={path},format=raw,if=virtio,readonly=on"]
    base = options.guest
    scenes = {"fresh boot": (base, []),
              f"{sixty} MiB written and freed":
              (f"{base} gw.free={sixty}", []),
              f"{sixty} MiB of page cache": (f"{base} gw.cache={sixty}", disk)}
    for scene, (guest, drive) in scenes.items():
        for side in SIDES:
            yield scene, side.name, functools.partial(
                one, bench, options, side, guest, drive)


if __name__ == "__main__":
    sys.exit(measure.run(cases, METRICS, measure.arguments(
        __doc__, runs=5, memory=2048, guest="gw.tick=20"),
        quick={"memory": 384}))
