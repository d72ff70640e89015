# SPDX-License-Identifier: BSD-3-Clause
"""What makes a program of a bench: its options, the loop that takes all its
measurements in turn, and what it says in the end.
"""
import argparse
import itertools
import json
import os
import sys

import lab
import report

SKIPPED = 77  # exit code: this machine cannot run any of it
ENOUGH = 2    # failures of one side in one case: no more of it


def parser(doc, runs):
    """Options that every bench has."""
    p = argparse.ArgumentParser(
        prog=os.path.basename(sys.argv[0]), description=doc,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("-n", "--runs", type=int, default=runs,
                   help=f"measurements of each side ({runs})")
    p.add_argument("--quick", action="store_true",
                   help="one of each, small guests: does it work at all?")
    p.add_argument("--json", action="store_true",
                   help="one JSON object with every raw number")
    return p


def arguments(doc, runs, memory, guest, settle=1000):
    """And those of the ones that move guests; @memory None: they have an
    option of their own for its size."""
    p = parser(doc, runs)
    p.add_argument("--qemu", help="QEMU program (scripts/find-qemu)")
    if memory:
        p.add_argument("--memory", type=int, default=memory, metavar="MIB",
                       help=f"RAM of the guest ({memory})")
    p.add_argument("--cpus", type=int, default=1, help="of the guest (1)")
    p.add_argument("--guest", default=guest, metavar="OPTIONS",
                   help=f"its kernel command line ('{guest}')")
    p.add_argument("--settle", type=int, default=settle, metavar="MS",
                   help="let it run before the move, in its own time "
                   f"({settle})")
    p.add_argument("--accel", default="tcg,thread=multi")
    p.add_argument("--tcp", action="store_true",
                   help="TCP on loopback instead of a unix socket")
    p.add_argument("--realtime", action="store_true",
                   help="both sides' processes before all others while "
                   "they move (root; for a machine that is not idle)")
    return p


def sample(case, side, measure):
    """@measure gives values, "completed" among them if it may be given up,
    and "raw" what is worth keeping besides."""
    s = {"case": case, "side": side}
    try:
        values = measure()
        s.update({k: values.pop(k) for k in ("completed", "raw")
                  if k in values}, values=values)
    except lab.Failed as e:
        s.update(error=str(e), skipped=isinstance(e, lab.CannotRun))
    return s


def in_turn(runs, cases, by_case):
    """(round, (case, side, measure)): a round of all, then the next one; or
    all rounds of a case before the next case."""
    groups = [list(g) for _, g in itertools.groupby(cases, lambda c: c[0])] \
        if by_case else [cases]
    return ((i, one) for g in groups for i in range(runs) for one in g)


def repeat(runs, cases, say, by_case=False):
    """Every (case, side, measure), @runs times. A side that failed or was
    given up ENOUGH times is not tried again in that case."""
    samples, bad = [], {}
    for i, (case, side, measure) in in_turn(runs, cases, by_case):
        if bad.get((case, side), 0) >= ENOUGH:
            continue
        s = sample(case, side, measure)
        samples.append(s)
        if "error" in s or not s.get("completed", True):
            bad[case, side] = bad.get((case, side), 0) + 1
        if s.get("skipped"):
            bad[case, side] = ENOUGH
        say(f"{i + 1}/{runs}", s)
    return samples


def progress(metrics, file):
    def say(count, s):
        what = s.get("error") or "  ".join(
            f"{m.label} {s['values'][m.key] * m.scale:{m.form}}"
            for m in metrics if s["values"].get(m.key) is not None)
        print(count, *(x for x in (s["case"], s["side"]) if x),
              " " + what + ("" if s.get("completed", True) else
                            "  (given up)"), file=file, flush=True)
    return say


def publish(samples, metrics, options, doc):
    """As text or JSON. The exit code."""
    if options.json:
        known = {k: v for k, v in vars(options).items() if k != "json"}
        print(json.dumps({
            "bench": os.path.basename(sys.argv[0]), "doc": doc,
            "options": known, "metrics": [m._asdict() for m in metrics],
            "samples": samples,
            "factors": report.factors(samples, metrics)}, indent=1))
    else:
        print("\n" + report.text_table(samples, metrics))
    failed = [s for s in samples if "error" in s]
    if failed and all(s.get("skipped") for s in samples):
        return SKIPPED
    return int(any(not s["skipped"] for s in failed))


def main(run, p, quick=None, open_lab=lab.Lab):
    """A program: run(lab, options) has its exit code. @quick: the values that
    --quick stands for."""
    if "--quick" in sys.argv:
        p.set_defaults(**{"runs": 1, "settle": 300, **(quick or {})})
    options = p.parse_args()
    if options.runs < 1:
        p.error("--runs must be at least 1")
    try:
        with open_lab(options) as bench:
            return run(bench, options)
    except lab.Failed as e:
        print(f"{p.prog}: {e}", file=sys.stderr)
        return SKIPPED if isinstance(e, lab.CannotRun) else 1
    except KeyboardInterrupt:
        return 130


def run(cases, metrics, p, by_case=False, **kw):
    """One that measures: @cases(lab, options) lists (case, side, measure);
    @by_case: see in_turn()."""
    def all_cases(bench, options):
        say = progress(metrics, sys.stderr if options.json else sys.stdout)
        samples = repeat(options.runs, list(cases(bench, options)), say,
                         by_case)
        return publish(samples, metrics, options, p.description)
    return main(all_cases, p, **kw)
