#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Which guests that write all the time can be moved, and at what cost?

A guest rewrites 64 or 512 MiB in a loop, page after page, 10, 100 or 1000 MiB
of pages a second (or as many as it can: "wrote" is what it did before the
move), few bytes of each (12 in every 1111) or all of them, over a link of 1 or
of 10 Gbit/s (parameter max-bandwidth, the same for both sides, which limits
neither while the VM stands). It is moved plainly, with XBZRLE and by
auto-converge, by godwit and by QEMU itself, in turn, in one run: two guests,
one of each side, which are moved on and on; the other stands meanwhile. A move
that takes longer than --limit is cancelled; then the VM has to run on where it
was.

downtime is what each program accounts, gap is how long the guest's console was
silent. miss and encoding are XBZRLE's in the whole move: pages not in the cache
of all looked up, and bytes of the others per byte that was sent for them. guest
is what it wrote during the move in percent of what it wrote before, per second.
"""
import functools
import sys
import time
from typing import NamedTuple

import lab
import measure
import report

WRITERS = {"sparse": "12:1111", "medium": "33:701", "dense": "4096:4096",
           "one": "1:4096"}
# name -> (QEMU's own?, options of godwit or capabilities of QEMU)
WAYS = {
    "godwit": (False, []),
    "godwit xbzrle": (False, ["--xbzrle"]),
    "godwit xbzrle, 2 channels": (False, ["--xbzrle", "--channels", "2"]),
    "godwit auto-converge": (False, ["--auto-converge"]),
    "QEMU": (True, []),
    "QEMU xbzrle": (True, ["xbzrle"]),
    "QEMU auto-converge": (True, ["auto-converge"]),
}
METRICS = [*lab.move_metrics("total-ms", "downtime-ms", "gap-ms"),
           report.Metric("passes", "passes"),
           *lab.move_metrics("sent-bytes"),
           report.Metric("written", "wrote MiB/s", 1 / lab.MIB),
           report.Metric("guest", "guest %", 100, more=True),
           report.Metric("miss", "miss %", 100, ".1f"),
           report.Metric("encoding", "encoding", form=".1f"),
           report.Metric("throttle", "throttle %")]
PAGE = 4096
CHECK_S = 0.3


class Cell(NamedTuple):
    """What the guest does, and the link."""
    loop: int        # MiB that it rewrites
    pages: int       # a second; 0: all it can
    writer: str      # of WRITERS
    bandwidth: int   # bytes per second

    def guest(self):
        return f" gw.loop={self.loop}:{self.pages}:{WRITERS[self.writer]}"


class Policy(NamedTuple):
    """What both sides are told."""
    downtime: int    # ms
    cache: int       # MiB
    limit: float     # s

    def options(self, cell):
        return ["--max-bandwidth", str(cell.bandwidth),
                "--downtime-limit", f"{self.downtime}ms",
                "--cache-size", f"{self.cache}M", "--stall-passes", "0"]

    def parameters(self, cell):
        return {"max_bandwidth": cell.bandwidth,
                "downtime_limit": self.downtime,
                "xbzrle_cache_size": self.cache * lab.MIB}


def speed(first, last):
    """Pages a second."""
    return (last.loop - first.loop) / (last.at - first.at)


def check(here):
    """The guest goes on and looks at its pages as it rewrites them, one for
    four; tests have it look at all."""
    seen = here.console.ticks[-1]
    last = lab.wait_until(
        "guest that goes on", lambda: here.console.ticks[-1].loop > seen.loop
        and here.console.ticks[-1].at >= seen.at + CHECK_S and
        here.console.ticks[-1], lab.MOVE_S)
    if last.bad:
        raise lab.Failed("the guest is damaged:\n" +
                         here.console.text()[-500:])
    if here.ask("query-status")["status"] != "running":
        raise lab.Failed("a move left the VM stopped")


class Herd:
    """The guests of one cell, one for each side. Where it is moved to it
    stands, while others move, until it is moved on."""

    def __init__(self, bench, options):
        self.bench, self.options = bench, options
        self.cell = None
        self.at = {}  # QEMU's own? -> Guest

    def forget(self):
        self.bench.kill()
        self.at = {}

    def source(self, cell, own):
        """Which runs for a while; (it, its ticks before and after that)."""
        if cell != self.cell:
            self.forget()
            self.cell = cell
        if own in self.at:
            self.at[own].ask("cont")
        else:
            self.at[own] = self.bench.guest("busy", own)
        a = self.at[own]
        first = a.wait_tick(a.console.ticks[-1].n + 1 if a.console.ticks
                            else 1)
        return a, first, a.wait_tick(first.n + max(
            1, self.options.settle // lab.a_period(a)))

    def settle(self, own, here, gone):
        here.ask("stop")
        self.bench.end(gone)
        self.at[own] = here


def move(herd, policy, cell, own, how):
    """A move and what it was for the guest: the move, the guest's speed
    before, and its speed then."""
    bench = herd.bench
    a, first, start = herd.source(cell, own)
    b = bench.guest("busy", own, incoming=True)
    with bench.ahead_of_others():
        if own:
            m = bench.qemu_move(a, b, *how, limit=policy.limit,
                                **policy.parameters(cell))
        else:
            m = bench.godwit_move(a, b, *how, *policy.options(cell),
                                  limit=policy.limit)
    end = time.monotonic()
    here, gone = (b, a) if m.completed else (a, b)
    lab.wait_until("tick after the move", lambda: here.console.ticks and
                   here.console.ticks[-1].at > end, lab.MOVE_S)
    before, then = speed(first, start), speed(start, here.console.ticks[-1])
    check(here)
    if m.completed:
        m.gap = lab.gap_ms(a, b)
    else:
        m.total = m.total or policy.limit * 1e3
    herd.settle(own, here, gone)
    return m, before, then


def one(herd, policy, cell, way):
    options = herd.options
    base = options.guest
    options.guest = base + cell.guest()
    options.memory = cell.loop + options.spare
    try:
        m, before, then = move(herd, policy, cell, *WAYS[way])
    except lab.Failed:
        herd.forget()
        raise
    finally:
        options.guest = base
    c = m.raw.get("xbzrle-cache") or {}
    looked_up = sum(c.get(k, 0) for k in ("cache-miss", "pages"))
    return {
        **m.values(), "completed": m.completed,
        "passes": m.raw["ram"]["dirty-sync-count"],
        "written": before * PAGE, "guest": then / before,
        "miss": c["cache-miss"] / looked_up if looked_up else None,
        "encoding": c["pages"] * PAGE / c["bytes"] if c.get("bytes") else None,
        "throttle": m.raw.get("cpu-throttle-percentage")}


def policy_of(options):
    return Policy(options.downtime, options.cache, options.limit)


def cases(bench, options):
    """Every combination of what the options list."""
    herd = Herd(bench, options)
    for link in options.links:
        for loop in options.sets:
            for writer in options.writers:
                for rate in options.rates:
                    cell = Cell(loop, rate * lab.MIB // PAGE, writer,
                                link * 10 ** 9 // 8)
                    name = (f"{link} Gbit/s, {rate} MiB/s over {loop} MiB, "
                            f"{writer}")
                    for way in options.ways:
                        yield name, way, functools.partial(
                            one, herd, policy_of(options), cell, way)


def arguments(doc, runs, ways, limit):
    p = measure.arguments(doc, runs=runs, memory=None,
                          guest="gw.tick=10 gw.file=1", settle=500)
    p.add_argument("--spare", type=int, default=352, metavar="MIB",
                   help="RAM of the guest beside what it rewrites (352)")
    p.add_argument("--downtime", type=int, default=300, metavar="MS",
                   help="limit of the downtime, of both sides (300)")
    p.add_argument("--cache", type=int, default=64, metavar="MIB",
                   help="of pages, of both sides (64)")
    p.add_argument("--limit", type=float, default=limit, metavar="S",
                   help=f"a move is cancelled after that ({limit})")
    p.add_argument("--ways", nargs="+", choices=WAYS, default=ways)
    return p


if __name__ == "__main__":
    parser = arguments(__doc__, 5, [w for w in WAYS if "channels" not in w],
                       30)
    parser.add_argument("--links", type=int, nargs="+", default=[1, 10],
                        metavar="GBIT", help="per second (1 10)")
    parser.add_argument("--sets", type=int, nargs="+", default=[64, 512],
                        metavar="MIB", help="that it rewrites (64 512)")
    parser.add_argument("--rates", type=int, nargs="+", metavar="MIB",
                        default=[10, 100, 1000],
                        help="of pages per second (10 100 1000)")
    parser.add_argument("--writers", nargs="+", choices=WRITERS,
                        default=["sparse", "dense"])
    sys.exit(measure.run(cases, METRICS, parser, quick={
        "links": [1], "sets": [64], "rates": [60], "writers": ["sparse"],
        "ways": ["godwit", "godwit auto-converge", "QEMU",
                 "QEMU auto-converge"], "limit": 3, "spare": 256},
        by_case=True))
