#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""What grows with the size of a VM, and with the number of migrations?

Synthetic VMs (lib/vm/synthetic.h) of 1 GiB to 1 TiB that all wrote the same
256 MiB and go on writing 5000 pages a second are moved by godwit's engines,
both sides in one process, over a socket; each goes round 4 times. Time, the
CPU time that a pass takes from the source, and the memory of both sides should
depend on what was written, not on the size. And 1 to 64 VMs of 1 GiB that wrote 32 MiB, all at
once, a process each. There is no VMM in it and QEMU has no part in it.
"""
import contextlib
import functools
import json
import os
import subprocess
import sys

import lab
import measure
import report

METRICS = [report.Metric("total-ms", "total ms"),
           report.Metric("pass-ms", "CPU ms a pass", form=".2f"),
           report.Metric("downtime-ms", "downtime ms", form=".2f"),
           report.Metric("private-kib", "private MiB", 1 / 1024, ".1f"),
           report.Metric("tables-kib", "page tables, MiB", 1 / 1024, ".1f"),
           report.Metric("rate", "MiB/s of all", 1 / lab.MIB, more=True)]
PROGRAM = os.path.join(lab.BUILD, "bench", "growth")


def one(gib, touched, count, passes):
    p = subprocess.run([PROGRAM, *map(str, (gib, touched, count, passes))],
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       text=True)
    if p.returncode:
        raise lab.Failed(p.stderr or f"growth: exit code {p.returncode}")
    values = json.loads(p.stdout)
    values["rate"] = values["sent-bytes"] / values["total-ms"] * 1e3
    return values


def cases(_, options):
    for gib in options.sizes:
        yield f"{gib} GiB", "godwit", functools.partial(
            one, gib, options.touched, 1, 4)
    for count in options.counts:
        yield f"{count} at once", "godwit", functools.partial(
            one, 1, options.each, count, 2)


if __name__ == "__main__":
    parser = measure.parser(__doc__, runs=5)
    parser.add_argument("--sizes", type=int, nargs="*", metavar="GIB",
                        default=[1, 4, 16, 64, 256, 1024])
    parser.add_argument("--touched", type=int, default=256, metavar="MIB",
                        help="that each of those wrote (256)")
    parser.add_argument("--counts", type=int, nargs="*", metavar="N",
                        default=[1, 2, 4, 8, 16, 32, 64],
                        help="migrations at once")
    parser.add_argument("--each", type=int, default=32, metavar="MIB",
                        help="that each of those wrote (32)")
    sys.exit(measure.run(cases, METRICS, parser, quick={
        "sizes": [1, 16, 256], "touched": 64, "counts": [1, 8], "each": 16},
        open_lab=contextlib.nullcontext))
