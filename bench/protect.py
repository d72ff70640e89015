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
import functools
import signal
import subprocess
import sys
import time

import lab
import measure
import report

SCENES = {"idle": "gw.tick=20",
          "writer": "gw.tick=20 gw.loop=32:{rate}:12:1111"}
WAYS = {"plain": [], "xbzrle": ["--xbzrle"]}
METRICS = [report.Metric("pause-p50-ms", "pause p50, ms", form=".1f"),
           report.Metric("pause-p99-ms", "pause p99, ms", form=".1f"),
           report.Metric("lag-ms", "lag ms", form=".1f"),
           report.Metric("interval-ms", "interval ms"),
           report.Metric("pages", "pages"),
           report.Metric("sent-bytes", "KiB", 1 / 1024),
           report.Metric("flush-ms", "flush ms", form=".1f"),
           report.Metric("checkpoints", "checkpoints"),
           report.Metric("guest", "guest %", 100, more=True)]


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
    rx, at = bench.listener("standby", b, "--timeout", "20s")
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
        first = a.console.ticks[0]
        before = progress(a, (first.at, first.n, first.loop))
        colo, during = protect(bench, options, a, b, interval, way)
        if a.console.ticks[-1].bad:
            raise lab.Failed("the guest is damaged: " +
                             a.console.text()[-500:])
        return {"pause-p50-ms": colo["pause-p50-us"] / 1e3,
                "pause-p99-ms": colo["pause-p99-us"] / 1e3,
                "lag-ms": colo["lag-us"] / 1e3,
                "interval-ms": colo["interval-us"] / 1e3,
                "pages": colo["pages"], "sent-bytes": colo["bytes"],
                "flush-ms": colo.get("flush-us", 0) / 1e3,
                "checkpoints": colo["checkpoint"],
                "guest": speed(during) / speed(before), "raw": colo}
    finally:
        bench.kill()


def cases(bench, options):
    for scene in options.scenes:
        for way in options.ways:
            for interval in options.intervals:
                yield (f"{scene}, {interval}", f"godwit, {way}",
                       functools.partial(one, bench, options, scene, way,
                                         interval))


if __name__ == "__main__":
    parser = measure.arguments(__doc__, runs=5, memory=512, guest="",
                               settle=2000)
    parser.add_argument("--seconds", type=float, default=5, metavar="S",
                        help="protected for so long (5)")
    parser.add_argument("--rate", type=int, default=20000, metavar="N",
                        help="pages that the writer rewrites in a second")
    parser.add_argument("--intervals", nargs="+", metavar="TIME",
                        default=["10ms", "50ms", "100ms", "500ms"])
    parser.add_argument("--scenes", nargs="+", choices=SCENES,
                        default=[*SCENES])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["plain"])
    sys.exit(measure.run(cases, METRICS, parser, quick={
        "memory": 256, "seconds": 3, "settle": 1000, "intervals": ["100ms"],
        "scenes": ["writer"]}))
