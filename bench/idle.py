#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""What does it cost to move a large guest that uses little of its memory?

An idle guest of 4 GiB that wrote 200 MiB once is moved by godwit and by
QEMU's own migration, in turn, in one run; and by godwit once more with a
quarter of the RAM, because time and bytes are to follow what the guest used
and not what it has. Beside the VM's own memory godwit may use little: the
private memory of both its processes is sampled while they work.
"""
import argparse
import json
import statistics
import sys

import lab

LIMIT_KB = 64 << 10  # private memory of `migrate` and `receive` together


def run(bench, options):
    say = (lambda _: None) if options.json else \
        (lambda text: print(text, flush=True))
    large, small = options.memory, options.memory // 4
    moves = {f"godwit {large} MiB": [], f"QEMU {large} MiB": [],
             f"godwit {small} MiB": []}
    for i in range(options.runs):
        for side, results in moves.items():
            options.memory = small if side.endswith(f" {small} MiB") \
                else large
            m = bench.move(side.startswith("QEMU"))
            results.append(m)
            say(f"{i + 1}/{options.runs} {side:<16} total {m.total:6.0f} ms  "
                f"sent {m.sent / 2**20:7.1f} MiB" +
                (f"  memory of both godwits {m.memory / 1024:5.1f} MiB"
                 if m.memory else ""))
    options.memory = large
    med = {side: {"total-ms": statistics.median(m.total for m in ms),
                  "sent-bytes": statistics.median(m.sent for m in ms),
                  "memory-kib": max(m.memory or 0 for m in ms) or None}
           for side, ms in moves.items()}
    ours, theirs, less = med.values()
    ratios = {k: ours[k] / theirs[k] for k in ("total-ms", "sent-bytes")}
    growth = {k: ours[k] / less[k] for k in ("total-ms", "sent-bytes")}
    fits = ours["memory-kib"] < LIMIT_KB
    if options.json:
        print(json.dumps({
            "bench": "idle", "runs": options.runs, "guest": options.guest,
            "sides": {side: {"median": med[side],
                             "total-ms": [m.total for m in ms],
                             "sent-bytes": [m.sent for m in ms],
                             "memory-kib": [m.memory for m in ms]}
                      for side, ms in moves.items()},
            "godwit/QEMU": ratios, "4-times-the-RAM": growth,
            "memory-limit-kib": LIMIT_KB, "memory-fits": fits}, indent=2))
        return 0 if fits else 1
    print(f"\nguest: {options.guest}, {options.runs} moves each, medians\n"
          f"{'':18}{'total ms':>10}{'sent MiB':>10}"
          f"{'godwit memory MiB (largest)':>30}")
    for side, x in med.items():
        memory = f"{x['memory-kib'] / 1024:.1f}" if x["memory-kib"] else "-"
        print(f"{side:18}{x['total-ms']:10.0f}"
              f"{x['sent-bytes'] / 2**20:10.1f}{memory:>30}")
    print(f"godwit / QEMU: time {ratios['total-ms']:.2f}, bytes "
          f"{ratios['sent-bytes']:.2f}\n"
          f"four times the RAM: time x {growth['total-ms']:.2f}, bytes x "
          f"{growth['sent-bytes']:.2f}\n"
          f"godwit's own memory: {'under' if fits else 'NOT UNDER'} "
          f"{LIMIT_KB >> 10} MiB")
    return 0 if fits else 1


if __name__ == "__main__":
    sys.exit(lab.main(run, lab.arguments(
        argparse.ArgumentParser(prog="idle.py", description=__doc__,
                                formatter_class=argparse.
                                RawDescriptionHelpFormatter),
        runs=3, memory=4096, guest="gw.tick=20 gw.touch=200")))
