#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""How long does the guest's console stand still when it is moved?

The same guest, that ticks every millisecond and dirties memory, is moved by
godwit and by QEMU's own migration, in turn, in one run. The gap is from the
arrival of the last tick on the source's console to that of the first one on
the destination's: what somebody outside sees, not what a program accounts.
"""
import argparse
import json
import statistics
import sys

import lab


def run(bench, options):
    say = (lambda _: None) if options.json else \
        (lambda text: print(text, flush=True))
    moves = lab.alternate(bench, options.runs, say)
    med = {side: {k: statistics.median(getattr(m, k) for m in ms)
                  for k in ("gap", "downtime", "total", "sent")}
           for side, ms in moves.items()}
    ratio = med["godwit"]["gap"] / med["QEMU"]["gap"]
    if options.json:
        print(json.dumps({
            "bench": "gap", "runs": options.runs, "memory-mib":
            options.memory, "guest": options.guest,
            "sides": {side: {"median": med[side], "gap-ms":
                             [m.gap for m in ms], "downtime-ms":
                             [m.downtime for m in ms], "total-ms":
                             [m.total for m in ms], "sent-bytes":
                             [m.sent for m in ms]}
                      for side, ms in moves.items()},
            "gap-ratio": ratio}, indent=2))
        return 0
    print(f"\nguest: {options.memory} MiB, {options.guest}\n"
          f"{'':8}{'gap ms (min median max)':>28}{'downtime ms':>14}"
          f"{'total ms':>11}{'sent MiB':>11}")
    for side, ms in moves.items():
        low, mid, high = lab.quartiles(m.gap for m in ms)
        print(f"{side:8}{low:12.1f}{mid:8.1f}{high:8.1f}"
              f"{med[side]['downtime']:14.1f}{med[side]['total']:11.0f}"
              f"{med[side]['sent'] / 2**20:11.1f}")
    print(f"gap, godwit / QEMU: {ratio:.2f} (medians of {options.runs} each)")
    return 0


if __name__ == "__main__":
    sys.exit(lab.main(run, lab.arguments(
        argparse.ArgumentParser(prog="gap.py", description=__doc__,
                                formatter_class=argparse.
                                RawDescriptionHelpFormatter),
        runs=9, memory=512,
        guest="gw.tick=1 gw.dirty=32:2000 gw.file=16")))
