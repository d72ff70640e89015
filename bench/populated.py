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
import contextlib
import functools
import os
import sys

import lab
import measure
import report

SLACK = 64 << 20  # the source's file may grow by that: the guest runs
METRICS = [*lab.move_metrics("total-ms", "sent-bytes"),
           report.Metric("file-before", "source's file, MiB", 1 / lab.MIB),
           report.Metric("file-after", "afterwards, MiB", 1 / lab.MIB),
           report.Metric("qemu-before", "mapped by QEMU, MiB", 1 / 1024),
           report.Metric("qemu-after", "afterwards, MiB", 1 / 1024),
           report.Metric("tables", "tables, MiB", 1 / 1024),
           report.Metric("godwit", "mapped by godwit, MiB", 1 / 1024)]


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


def look(guest):
    """Its file's bytes, KiB that its QEMU has mapped, KiB of page tables."""
    pid = guest.proc.pid
    return (ram_files(pid), lab.memory_kb(pid, "RssShmem:"),
            lab.memory_kb(pid, "VmPTE:"))


def move(bench, own):
    a, b = bench.pair(own)
    file0, mapped0, tables0 = look(a)
    m = bench.qemu_move(a, b) if own else bench.godwit_move(a, b)
    b.wait_tick(a.console.ticks[-1].n + 3)
    file1, mapped1, tables1 = look(a)
    if not own and file1 > file0 + SLACK:
        raise lab.Failed(f"the source's file grew from {file0 >> 20} to "
                         f"{file1 >> 20} MiB")
    return {**m.values(), "file-before": file0, "file-after": file1,
            "qemu-before": mapped0, "qemu-after": mapped1,
            "tables": tables1 - tables0, "godwit": m.mapped or None}


def one(bench, options, own, memory):
    options.memory = memory
    try:
        return move(bench, own)
    finally:
        bench.kill()
        for name in os.listdir(bench.dir):
            if name.startswith("bench-ram"):
                os.unlink(os.path.join(bench.dir, name))


def shared_files(bench, options):
    """QEMU's RAM on a shared file too: private RAM it need not read."""
    names = (f"{bench.dir}/bench-ram{i}" for i in range(1 << 30))

    def extra(own):
        return ["-object", "memory-backend-file,id=pc.ram,share=on,"
                f"size={options.memory}M,mem-path={next(names)}",
                "-machine", "memory-backend=pc.ram"] if own else []
    return extra


def cases(bench, options):
    bench.extra = shared_files(bench, options)
    for side, memory in (("godwit", options.large), ("godwit", options.small),
                         ("QEMU", options.small)):
        yield f"{memory} MiB", side, functools.partial(
            one, bench, options, side == "QEMU", memory)


if __name__ == "__main__":
    parser = measure.arguments(__doc__, runs=5, memory=None,
                               guest="gw.tick=20 gw.touch=180 mem=1G")
    parser.add_argument("--large", type=int, default=65536, metavar="MIB",
                        help="RAM of godwit's other guest (65536)")
    parser.add_argument("--small", type=int, default=4096, metavar="MIB",
                        help="RAM of the guest (4096)")
    sys.exit(measure.run(cases, METRICS, parser, quick={
        "large": 8192, "small": 1024,
        "guest": "gw.tick=20 gw.touch=60 mem=512M"}))
