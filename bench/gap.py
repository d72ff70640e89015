#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""How long does the guest's console stand still when it is moved?

The same guest, that ticks every millisecond and dirties memory, is moved by
godwit and by QEMU's own migration, in turn, in one run. The gap is from the
arrival of the last tick on the source's console to that of the first one on
the destination's: what somebody outside sees, not what a program accounts.
"""
import sys

import lab
import measure

METRICS = lab.move_metrics("gap-ms", "downtime-ms", "total-ms", "sent-bytes")


def cases(bench, options):
    case = f"{options.memory} MiB"
    yield case, "godwit", lambda: bench.move(False).values()
    yield case, "QEMU", lambda: bench.move(True).values()


if __name__ == "__main__":
    sys.exit(measure.run(cases, METRICS, measure.arguments(
        __doc__, runs=30, memory=512,
        guest="gw.tick=1 gw.dirty=32:2000 gw.file=16"),
        quick={"memory": 256}))
