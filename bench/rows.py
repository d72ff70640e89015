# SPDX-License-Identifier: BSD-3-Clause
"""What `make bench` measures: one table of programs, with the goals that they
were given and the pictures that say more than their numbers.

A goal looks at the samples of a row and says what was measured and whether
that is enough; None: nothing of it was measured.
"""
from typing import Callable, NamedTuple

import report


class Goal(NamedTuple):
    text: str
    look: Callable  # (samples, metrics) -> (text, reached) or None


class Row(NamedTuple):
    name: str
    title: str
    program: str         # in bench/: NAME.py here, else build/bench/NAME
    runs: int = 0        # its own number of runs; 0: as many as the others
    args: tuple = ()     # of a program that is no Python
    quick_args: tuple = ()
    in_quick: bool = True
    goals: tuple = ()
    pictures: dict = {}  # suffix of the file -> (samples, metrics) -> SVG


# --- goals -----------------------------------------------------------------

def times_better(key, need, case=""):
    """godwit's best against QEMU's, in the worst case whose name has @case."""
    def look(samples, metrics):
        found = {c: f[key] for c, f in
                 report.factors(samples, metrics).items()
                 if case in c and key in f}
        if not found:
            return None
        worst = min(found, key=found.get)
        return f"{found[worst]:.2f}x ({worst})", found[worst] >= need
    return look


def of_limit(need, case):
    """godwit's best share of the machine's limit."""
    def look(samples, metrics):
        share = next(m for m in metrics if m.key == "of-limit")
        found = [report.best(sides, report.OURS, share._replace(more=True))
                 for c, sides in report.group(samples).items() if c == case]
        if not found or None in found:
            return None
        return f"{100 * min(found):.0f} %", min(found) >= need
    return look


def tail(key, times):
    """The 99th percentile of godwit's is at most @times its median."""
    def look(samples, _):
        v = [s["values"][key] for s in samples if "error" not in s
             and s["side"].startswith(report.OURS)]
        if not v:
            return None
        median, high = report.spread(v).median, report.percentile(v, 99)
        return (f"{high:.1f} ms of {len(v)}, median {median:.1f} ms",
                high <= times * median)
    return look


def converging(samples):
    """Cases in which a way of (godwit, QEMU) completes."""
    by_case = report.group(samples)
    return [{c for c, sides in by_case.items() if any(
        s.completes() for name, s in sides.items() if name.startswith(p))}
        for p in (report.OURS, report.THEIRS)]


def converges_too(samples, _):
    ours, theirs = converging(samples)
    lost = theirs - ours
    return (f"{len(theirs) - len(lost)} of {len(theirs)}" +
            (f", not {', '.join(sorted(lost))}" if lost else ""), not lost)


def converges_more(need):
    def look(samples, _):
        ours, theirs = converging(samples)
        more = ours - theirs
        return (f"{len(more)}" + (f": {', '.join(sorted(more))}"
                                  if more else ""), len(more) >= need)
    return look


# --- pictures --------------------------------------------------------------

def bars(key, title):
    def draw(samples, metrics):
        m = next(m for m in metrics if m.key == key)
        return report.bars_svg(samples, m, title)
    return draw


def gaps(samples, _):
    return report.lines_svg(
        report.distribution(samples, "gap-ms"),
        "Gap on the guest's console: so many percent are not longer",
        "percent of the moves", "ms")


def growth(unit, title, keys):
    """Medians by the number that the names of cases begin with."""
    def draw(samples, metrics):
        curves = {}
        for case, sides in report.group(samples).items():
            number, _, rest = case.partition(" ")
            for m in metrics:
                s = sides[report.OURS].get(m.key)
                if m.key in keys and rest == unit and s:
                    curves.setdefault(m.label, []).append(
                        (float(number), s.median * m.scale))
        return report.lines_svg(curves, title, unit, "", log=True)
    return draw


# --- the table -------------------------------------------------------------

ROWS = [
    Row("idle", "Idle guests", "idle.py", goals=(
        Goal("4 GiB: total time 4 times better than QEMU's best",
             times_better("total-ms", 4, "4096 MiB")),
        Goal("16 GiB: 15 times", times_better("total-ms", 15, "16384 MiB"))),
        pictures={"": bars("total-ms", "Idle guests")}),
    Row("full", "A full guest", "full.py", goals=(
        Goal("unix: throughput 1.5 times QEMU's best",
             times_better("rate", 1.5, "unix")),
        Goal("tcp: the same", times_better("rate", 1.5, "tcp")),
        Goal("unix: 70 % of the machine's limit", of_limit(0.7, "unix")),
        Goal("tcp: the same share", of_limit(0.7, "tcp"))),
        pictures={"": bars("rate", "A full guest")}),
    Row("busy", "Busy guests", "busy.py", goals=(
        Goal("converges wherever QEMU does", converges_too),
        Goal("and in two cases more", converges_more(2)))),
    Row("gap", "Downtime", "gap.py", runs=30, goals=(
        Goal("median not longer than QEMU's", times_better("gap-ms", 1)),
        Goal("99th percentile at most twice the median", tail("gap-ms", 2))),
        pictures={"": gaps}),
    Row("store", "Snapshots", "store.py", goals=(
        Goal("save 1.5 times as fast as QEMU",
             times_better("seconds", 1.5, "save")),
        Goal("restore 1.5 times as fast",
             times_better("seconds", 1.5, "restore"))),
        pictures={"": bars("seconds", "Snapshots")}),
    Row("protect", "Checkpoints", "protect.py"),
    Row("flush", "Writing a checkpoint into the VM's memory", "flush",
        quick_args=("--mib", "256", "--rounds", "3")),
    Row("xbzrle", "XBZRLE on a slow link", "xbzrle.py"),
    Row("populated", "Memory that was never used", "populated.py",
        in_quick=False),
    Row("free_pages", "Memory that is free", "free_pages.py", in_quick=False),
    Row("zero", "Zero pages", "zero", quick_args=("64", "3")),
    Row("codec", "Page codecs", "codec", args=("1",), quick_args=("0.01",)),
    Row("cache", "The page cache", "cache", quick_args=("8",)),
    Row("growth", "Growth", "growth.py", pictures={
        "-size": growth("GiB", "By the size of the VM",
                        ("total-ms", "pass-ms", "tables-kib")),
        "-count": growth("at once", "By the number of migrations",
                         ("total-ms", "rate"))}),
]
