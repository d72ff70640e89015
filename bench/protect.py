#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""What does protecting a VM cost its guest?

A Linux guest is protected by a standby on the same machine, at each interval:
idle, and with a writer that rewrites 32 MiB page by page (--rate pages/s, a few
bytes of each). Pause is from the VM's stop to its continuation, as godwit says
(median and 99th percentile of the checkpoints of a run); lag from the stop to
the standby's acknowledgement; guest what the writer gets done in percent of
what it got done before, by the guest's own count and the host's clock, and of
an idle guest the ticks on its console. Both hosts are this one: the standby's
CPU time is taken from the guest here, and not in real life.

QEMU's own COLO cannot be compared: its primary (10.0) never enters it.
"""
import argparse
import json
import signal
import statistics
import subprocess
import sys
import time

import lab

MIB = 1 << 20
SCENES = {"idle": "gw.tick=20",
          "writer": "gw.tick=20 gw.loop=32:{rate}:12:1111"}
WAYS = {"plain": [], "xbzrle": ["--xbzrle"]}


def progress(guest, since=None):
    """(host seconds, ticks, pages of the writer) of the last tick, or what
    came since."""
    t = guest.console.ticks[-1]
    now = (t.at, t.n, t.loop)
    return now if since is None else tuple(a - b for a, b in zip(now, since))


def speed(moved):
    seconds, ticks, pages = moved
    return (pages or ticks) / seconds


def protect(bench, options, a, b, interval, way):
    def listening():
        if rx.poll() is not None:
            raise lab.Failed("godwit standby: " + bench.log("standby"))
        return said.uri()

    rx = bench.start([lab.GODWIT, "standby", "tcp:127.0.0.1:0", b.name,
                      "--json", "--timeout", "20s"], "standby",
                     subprocess.PIPE)
    said = lab.Events(rx)
    at = lab.wait_until("listening standby", listening, 30)
    tx = bench.start([lab.GODWIT, "protect", a.name, at, "--json",
                      "--interval", interval, *WAYS[way]], "protect",
                     subprocess.PIPE)
    events = lab.Events(tx)

    def protected():
        if tx.poll() is not None:
            raise lab.Failed("godwit protect: " + bench.log("protect"))
        return any(e.get("colo", {}).get("checkpoint") for e in events.list)
    lab.wait_until("first checkpoint", protected, lab.MOVE_S)
    time.sleep(1)
    start = progress(a)
    time.sleep(options.seconds)
    during = progress(a, start)
    tx.send_signal(signal.SIGINT)
    if tx.wait() or rx.wait():
        raise lab.Failed("godwit: " + bench.log("protect") +
                         bench.log("standby"))
    return events.last()["colo"], during


def one(bench, options, scene, way, interval):
    options.guest = SCENES[scene].format(rate=options.rate)
    try:
        a, b = bench.pair(False)
        b.wait_qmp()
        before = progress(a, (lambda t: (t.at, t.n, t.loop))(
            a.console.ticks[0]))
        colo, during = protect(bench, options, a, b, interval, way)
        last = a.console.ticks[-1]
        if last.bad:
            raise lab.Failed("the guest is damaged: " +
                             a.console.text()[-500:])
        return {"pause-p50-ms": colo["pause-p50-us"] / 1e3,
                "pause-p99-ms": colo["pause-p99-us"] / 1e3,
                "lag-ms": colo["lag-us"] / 1e3,
                "interval-ms": colo["interval-us"] / 1e3,
                "pages": colo["pages"], "kib": colo["bytes"] / 1024,
                "flush-ms": colo.get("flush-us", 0) / 1e3,
                "checkpoints": colo["checkpoint"],
                "guest": speed(during) / speed(before), "raw": colo}
    finally:
        bench.kill()


KEYS = ("pause-p50-ms", "pause-p99-ms", "lag-ms", "interval-ms", "pages",
        "kib", "guest")


def run(bench, options):
    rows = [(s, w, i) for s in options.scenes for w in options.ways
            for i in options.intervals]
    results = {r: [] for r in rows}
    for i in range(options.runs):
        for r in rows:
            m = one(bench, options, *r)
            results[r].append(m)
            if not options.json:
                print(f"{i + 1}/{options.runs} {' '.join(r)}: " + "  ".join(
                    f"{k} {m[k]:.3g}" for k in KEYS), flush=True)
    med = {" ".join(r): {k: statistics.median(m[k] for m in ms)
                         for k in KEYS} for r, ms in results.items()}
    if options.json:
        print(json.dumps({"bench": "protect", "runs": options.runs,
                          "median": med,
                          "runs-of": {" ".join(r): m
                                      for r, m in results.items()}},
                         indent=2))
        return 0
    print(f"\n{options.memory} MiB, medians of {options.runs}")
    print(f"{'':26}{'pause p50':>10}{'p99 ms':>8}{'lag ms':>8}"
          f"{'interval':>10}{'pages':>8}{'KiB':>8}{'guest %':>9}")
    for name, m in med.items():
        print(f"{name:26}{m['pause-p50-ms']:10.1f}{m['pause-p99-ms']:8.1f}"
              f"{m['lag-ms']:8.1f}{m['interval-ms']:10.0f}{m['pages']:8.0f}"
              f"{m['kib']:8.0f}{m['guest'] * 100:9.0f}")
    return 0


if __name__ == "__main__":
    parser = lab.arguments(
        argparse.ArgumentParser(prog="protect.py", description=__doc__,
                                formatter_class=argparse.
                                RawDescriptionHelpFormatter),
        runs=5, memory=512, guest="", settle=3000)
    parser.add_argument("--seconds", type=float, default=8, metavar="S",
                        help="protected for so long (8)")
    parser.add_argument("--rate", type=int, default=20000, metavar="N",
                        help="pages that the writer rewrites in a second")
    parser.add_argument("--intervals", nargs="+", metavar="TIME",
                        default=["10ms", "50ms", "100ms", "500ms"])
    parser.add_argument("--scenes", nargs="+", choices=SCENES,
                        default=[*SCENES])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["plain"])
    sys.exit(lab.main(run, parser))
