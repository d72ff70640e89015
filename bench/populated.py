#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Does moving a guest make it larger?

A guest of 64 GiB on a shared file (tmpfs) that wrote some 300 MiB, and one of
4 GiB that wrote the same, are moved by godwit: time, bytes and memory are to
follow what was written. QEMU's own migration looks at every page to see whether
it is zero, which allocates every hole of a shared file, so it moves the small
one only: 64 GiB would not fit into the host. Memory is what the file behind the
source's RAM has allocated before and after, and the shared memory that the
source's QEMU and `godwit migrate` have mapped; "tables" is by how much the page
tables of the source's QEMU grew.
"""
import argparse
import contextlib
import json
import os
import statistics
import sys
import threading
import time

import lab

MIB = 1 << 20


def ram_files(pid):
    """Bytes allocated in the deleted or shared files behind its RAM."""
    seen = {}
    folder = f"/proc/{pid}/fd"
    for fd in os.listdir(folder):
        with contextlib.suppress(OSError):
            path = os.path.join(folder, fd)
            name = os.readlink(path)
            if "godwit-pc.ram" in name or "bench-ram" in name:
                st = os.stat(path)
                seen[st.st_dev, st.st_ino] = st.st_blocks * 512
    if not seen:
        raise lab.Failed("no file behind the RAM")
    return sum(seen.values())


class Watch(threading.Thread):
    """The most shared memory that `godwit migrate` has mapped."""

    def __init__(self, bench):
        super().__init__(daemon=True)
        self.bench, self.top, self.over = bench, 0, False
        self.start()

    def run(self):
        while not self.over:
            for p in list(self.bench.procs):
                if "migrate" in p.args:
                    self.top = max(self.top, lab.rss_anon(p.pid, "RssShmem:"))
            time.sleep(0.01)


def one(bench, own):
    try:
        a, b = bench.pair(own)
        before = ram_files(a.proc.pid), lab.rss_anon(a.proc.pid, "RssShmem:")
        tables = lab.rss_anon(a.proc.pid, "VmPTE:")
        watch = Watch(bench)
        m = bench.qemu_move(a, b) if own else bench.godwit_move(a, b)
        watch.over = True
        b.wait_tick(a.console.ticks[-1].n + 3)
        after = ram_files(a.proc.pid), lab.rss_anon(a.proc.pid, "RssShmem:")
        return {"total-ms": m.total, "sent-mib": m.sent / MIB,
                "file-before-mib": before[0] / MIB,
                "file-after-mib": after[0] / MIB,
                "qemu-before-mib": before[1] / 1024,
                "qemu-after-mib": after[1] / 1024,
                "tables-mib": (lab.rss_anon(a.proc.pid, "VmPTE:") - tables) /
                1024,
                "godwit-mib": watch.top / 1024}
    finally:
        bench.kill()
        for name in os.listdir(bench.dir):
            if name.startswith("bench-ram"):
                os.unlink(os.path.join(bench.dir, name))


def run(bench, options):
    say = (lambda _: None) if options.json else \
        (lambda text: print(text, flush=True))
    large, small, count = options.memory, options.small, [0]
    sides = {f"godwit {large} MiB": (False, large),
             f"godwit {small} MiB": (False, small),
             f"QEMU {small} MiB": (True, small)}

    def extra(own):
        """QEMU's RAM on a shared file too: private RAM it need not read."""
        count[0] += 1
        return ["-object", "memory-backend-file,id=pc.ram,share=on,"
                f"size={options.memory}M,"
                f"mem-path={bench.dir}/bench-ram{count[0]}",
                "-machine", "memory-backend=pc.ram"] if own else []

    bench.extra = extra
    results = {side: [] for side in sides}
    for i in range(options.runs):
        for side, (own, memory) in sides.items():
            options.memory = memory
            r = one(bench, own)
            results[side].append(r)
            say(f"{i + 1}/{options.runs} {side:<17} " +
                "  ".join(f"{k} {v:.0f}" for k, v in r.items()))
    options.memory = large
    med = {side: {k: statistics.median(r[k] for r in rs) for k in rs[0]}
           for side, rs in results.items()}
    if options.json:
        print(json.dumps({"bench": "populated", "runs": options.runs,
                          "guest": options.guest, "median": med,
                          "sides": results}, indent=2))
        return 0
    keys = list(next(iter(med.values())))
    print(f"\nguest: {options.guest}, medians of {options.runs}\n"
          f"{'':18}" + "".join(f"{k:>17}" for k in keys))
    for side, m in med.items():
        print(f"{side:18}" + "".join(f"{m[k]:17.0f}" for k in keys))
    ours, less, theirs = med.values()
    print(f"{large // small} times the RAM: time x "
          f"{ours['total-ms'] / less['total-ms']:.2f}, bytes x "
          f"{ours['sent-mib'] / less['sent-mib']:.2f}\n"
          "the source's memory grew by (after / before): " + ", ".join(
              f"{side} x {m['file-after-mib'] / m['file-before-mib']:.2f}"
              for side, m in med.items()))
    return 0 if ours["file-after-mib"] < ours["file-before-mib"] + 64 else 1


if __name__ == "__main__":
    parser = lab.arguments(
        argparse.ArgumentParser(prog="populated.py", description=__doc__,
                                formatter_class=argparse.
                                RawDescriptionHelpFormatter),
        runs=3, memory=65536, guest="gw.tick=20 gw.touch=180 mem=1G")
    parser.add_argument("--small", type=int, default=4096, metavar="MIB",
                        help="RAM of the other guest (4096)")
    sys.exit(lab.main(run, parser))
