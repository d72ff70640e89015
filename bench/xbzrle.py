#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Does a VM that writes faster than the link can carry still move?

A guest rewrites memory in a loop, page after page: 12 bytes in every 1111 of
it (--writer: 33 in every 701, all bytes, one per page). That is more than the
bandwidth limit, the same for both sides, lets through, so plain precopy goes
round and round. It is moved plainly, with XBZRLE, with XBZRLE over two more
connections, and by auto-converge, by godwit and by QEMU itself (which has no
XBZRLE with multifd), in turn, in one run. A move that takes longer than
--limit is cancelled; then the VM has to run on where it was.

downtime is what each program accounts, gap is how long the guest's console was
silent. Neither side limits the bandwidth while the VM stands. miss and encoding
are of the whole move: pages not in the cache of all looked up, and bytes of
the others per byte that was sent for them. guest is what the guest wrote during the move in
percent of what it wrote before, per second.
"""
import argparse
import json
import statistics
import sys
import time

import lab

WRITERS = {"sparse": "12:1111", "medium": "33:701", "dense": "4096:4096",
           "one": "1:4096"}
# row -> (QEMU's own?, options of godwit or capabilities of QEMU)
ROWS = {
    "godwit": (False, []),
    "godwit xbzrle": (False, ["--xbzrle"]),
    "godwit xbzrle, 2 channels": (False, ["--xbzrle", "--channels", "2"]),
    "godwit auto-converge": (False, ["--auto-converge"]),
    "QEMU": (True, []),
    "QEMU xbzrle": (True, ["xbzrle"]),
    "QEMU auto-converge": (True, ["auto-converge"]),
}
MIB = 1 << 20


def speed(first, last):
    return (last.loop - first.loop) / (last.at - first.at)


def one_move(bench, options, own, how):
    """A move and what it was for the guest."""
    a, b = bench.pair(own)
    first, start = a.console.ticks[0], a.console.ticks[-1]
    kw = {"limit": options.limit}
    with bench.ahead_of_others():
        if own:
            m = bench.qemu_move(
                a, b, *how, max_bandwidth=options.bandwidth * MIB,
                downtime_limit=options.downtime,
                xbzrle_cache_size=options.cache * MIB, **kw)
        else:
            m = bench.godwit_move(
                a, b, *how, "--max-bandwidth", f"{options.bandwidth}M",
                "--downtime-limit", f"{options.downtime}ms",
                "--cache-size", f"{options.cache}M", "--stall-passes", "0",
                **kw)
    end = time.monotonic()
    here = b if m.completed else a
    lab.wait_until("tick after the move", lambda: here.console.ticks and
                   here.console.ticks[-1].at > end, lab.MOVE_S)
    m.guest = speed(start, here.console.ticks[-1]) / speed(first, start)
    if not m.total:
        m.total = options.limit * 1e3
    # the guest looks at each of its pages once more
    seen, pages = here.console.ticks[-1].loop, options.loop * MIB // 4096
    last = lab.wait_until(
        "guest that goes on", lambda: here.console.ticks[-1].loop >=
        seen + 5 * pages and here.console.ticks[-1], lab.MOVE_S)
    if m.completed:
        m.gap = lab.gap_ms(a, b)
    elif last.bad or a.wait_qmp()("query-status")["status"] != "running":
        raise lab.Failed("a move that was cancelled harmed the guest:\n" +
                         a.console.text()[-500:])
    return m


def numbers(m):
    """Of one move, for the tables."""
    ram, c = m.raw["ram"], m.raw.get("xbzrle-cache") or {}
    looked_up = sum(c.get(k, 0) for k in ("cache-miss", "pages"))
    return {
        "completed": m.completed, "total-ms": m.total,
        "downtime-ms": m.downtime, "gap-ms": m.gap, "sent-bytes": m.sent,
        "passes": ram["dirty-sync-count"], "guest": m.guest,
        "miss": c["cache-miss"] / looked_up if looked_up else None,
        "encoding": c["pages"] * 4096 / c["bytes"] if c.get("bytes")
        else None,
        "xbzrle-cache": c or None,
        "throttle": m.raw.get("cpu-throttle-percentage")}


def median(runs, key):
    """Of the moves that have it; None: none has."""
    v = [r[key] for r in runs if r[key] is not None]
    return statistics.median(v) if v else None


def show(value, width, form, scale=1.0):
    return f"{'-' if value is None else format(value * scale, form):>{width}}"


def columns(runs):
    """Medians of what belongs together: of the moves that completed, if any
    did."""
    done = [r for r in runs if r["completed"]]
    what = done or runs
    return f"{len(done)}/{len(runs)}".rjust(6) + "".join(
        show(median(what, key), width, form, scale)
        for key, width, form, scale in (
            ("total-ms", 9, ".1f", 1e-3), ("passes", 8, ".0f", 1),
            ("downtime-ms", 13, ".0f", 1), ("gap-ms", 8, ".0f", 1),
            ("sent-bytes", 10, ".1f", 1 / MIB), ("miss", 8, ".1f", 100),
            ("encoding", 10, ".1f", 1), ("guest", 9, ".0f", 100)))


HEAD = (f"{'':26}{'done':>6}{'total s':>9}{'passes':>8}{'downtime ms':>13}"
        f"{'gap ms':>8}{'sent MiB':>10}{'miss %':>8}{'encoding':>10}"
        f"{'guest %':>9}")


def ratios(results):
    """godwit / QEMU of the same way, where both completed."""
    for ours, theirs in (("godwit xbzrle", "QEMU xbzrle"),
                         ("godwit xbzrle, 2 channels", "QEMU xbzrle"),
                         ("godwit auto-converge", "QEMU auto-converge")):
        a, b = (([r for r in results.get(x, []) if r["completed"]])
                for x in (ours, theirs))
        if a and b:
            yield f"{ours} / {theirs}", {
                k: median(a, k) / median(b, k)
                for k in ("total-ms", "downtime-ms", "gap-ms", "sent-bytes",
                          "guest") if median(b, k)}


def run(bench, options):
    say = (lambda _: None) if options.json else \
        (lambda text: print(text, flush=True))
    rows = {k: v for k, v in ROWS.items() if options.only in k}
    if not rows:
        raise lab.Failed(f"--only {options.only}: there are "
                         f"{', '.join(ROWS)}")
    options.guest += (f" gw.loop={options.loop}:{options.rate}:"
                      f"{WRITERS[options.writer]}")
    results = {row: [] for row in rows}
    say(HEAD)
    for i in range(options.runs):
        for row, (own, how) in rows.items():
            try:
                r = numbers(one_move(bench, options, own, how))
            finally:
                bench.kill()
            results[row].append(r)
            say(f"{row:26}{columns([r])}")
    if options.json:
        print(json.dumps({
            "bench": "xbzrle", "runs": options.runs, "guest": options.guest,
            "bandwidth": options.bandwidth * MIB, "limit-s": options.limit,
            "cache": options.cache * MIB, "rows": results,
            "ratios": dict(ratios(results))}, indent=2))
        return 0
    say(f"\n{options.memory} MiB, {options.guest}; {options.bandwidth} MiB/s, "
        f"cache {options.cache} MiB, given up after {options.limit:.0f} s; "
        f"{options.runs} runs each, medians of those that completed\n{HEAD}")
    for row, runs in results.items():
        say(f"{row:26}{columns(runs)}")
    for name, r in ratios(results):
        say(f"{name}: " + ", ".join(f"{k.rsplit('-', 1)[0]} {v:.2f}"
                                    for k, v in r.items()))
    return 0


if __name__ == "__main__":
    parser = lab.arguments(
        argparse.ArgumentParser(prog="xbzrle.py", description=__doc__,
                                formatter_class=argparse.
                                RawDescriptionHelpFormatter),
        runs=3, memory=384, guest="gw.tick=10 gw.file=1", settle=2000)
    parser.add_argument("--writer", choices=WRITERS, default="sparse")
    parser.add_argument("--loop", type=int, default=32, metavar="MIB",
                        help="that the guest rewrites (32)")
    parser.add_argument("--rate", type=int, default=20000, metavar="N",
                        help="pages that it rewrites in a second; 0: all it "
                        "can (20000)")
    parser.add_argument("--bandwidth", type=int, default=32, metavar="MIB",
                        help="per second, of both sides (32)")
    parser.add_argument("--downtime", type=int, default=300, metavar="MS",
                        help="limit of the downtime, of both sides (300)")
    parser.add_argument("--cache", type=int, default=64, metavar="MIB",
                        help="of pages, of both sides (64)")
    parser.add_argument("--limit", type=float, default=60, metavar="S",
                        help="a move is cancelled after that (60)")
    parser.add_argument("--only", default="", metavar="TEXT",
                        help="rows with TEXT in their names")
    sys.exit(lab.main(run, parser))
