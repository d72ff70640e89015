#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Where does the time go between the guest's last line and its first?

godwit moves a guest that ticks every millisecond; both sides log the steps of
the hand-over (GODWIT_LOG=trace), all by the host's clock. For each step, the
median over the moves: when it was, from the moment in which the VM stopped,
and how long after the step before it.
"""
import json
import re
import statistics
import sys

import lab
import measure

LINE = re.compile(r"trace: \w+: at (\d+) us: (.*?)(?: \((\d+) us\))?$",
                  re.MULTILINE)


def steps(side, text):
    """[(ms, "SIDE: step")]; a step that comes again has a number."""
    seen, out = {}, []
    for at, what, _ in LINE.findall(text):
        n = seen[what] = seen.get(what, 0) + 1
        out.append((int(at) / 1e3, f"{side}: {what}" +
                    (f" #{n}" if n > 1 else "")))
    return out


def one_move(bench):
    """A move's steps, ms from STOP, from "switch over" on."""
    try:
        a, b = bench.pair(False)
        with bench.ahead_of_others():
            bench.godwit_move(a, b, *bench.options.move.split())
            b.wait_tick(a.console.ticks[-1].n + 3)
        gap = lab.gap_ms(a, b)
        last = a.console.ticks[-1].at * 1e3
        all_ = steps("source", bench.log("migrate")) + \
            steps("dest", bench.log("receive")) + \
            [(last, "guest: last line"), (last + gap, "guest: first line")]
    finally:
        bench.kill()
    t = {what: at for at, what in all_}
    stop, first = t["source: stopped"], t["source: switch over"]
    return gap, {what: at - stop for what, at in t.items() if at >= first}


def run(bench, options):
    bench.environ["GODWIT_LOG"] = "trace"
    moves = []
    for i in range(options.runs):
        gap, at = one_move(bench)
        moves.append(at)
        if not options.json:
            print(f"{i + 1}/{options.runs} gap {gap:.1f} ms", flush=True)
    names = [n for n in moves[0] if all(n in m for m in moves)]
    med = {n: statistics.median(m[n] for m in moves) for n in names}
    order = sorted(names, key=med.get)
    if options.json:
        print(json.dumps({"bench": "handover", "runs": options.runs,
                          "median-ms": {n: med[n] for n in order},
                          "moves-ms": moves}, indent=2))
        return 0
    print(f"\nguest: {options.memory} MiB, {options.guest}\n"
          f"{'ms':>9}{'step ms':>9}")
    for i, n in enumerate(order):
        by = f"{med[n] - med[order[i - 1]]:9.2f}" if i else " " * 9
        print(f"{med[n]:9.2f}{by}  {n}")
    return 0


if __name__ == "__main__":
    arguments = measure.arguments(
        __doc__, runs=5, memory=512,
        guest="gw.tick=1 gw.dirty=32:2000 gw.file=16")
    arguments.add_argument("--move", default="", metavar="OPTIONS",
                           help="of godwit migrate ('--xbzrle ...')")
    sys.exit(measure.main(run, arguments))
