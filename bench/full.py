#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""How fast does a guest move whose memory is full?

A guest of 2 GiB with 1.5 GiB of random data is moved by godwit over one
connection and with 1, 2 and 4 channels beside it, and by QEMU plainly and with
multifd over 1, 2 and 4, in turn, in one run; over unix sockets and over TCP on
loopback. The limit is what a bare sender and receiver of as many bytes reach
over as many sockets (limit.c), into memory that is there already.
"""
import functools
import os
import re
import subprocess
import sys

import lab
import measure
import report

METRICS = [report.Metric("rate", "MiB/s", 1 / lab.MIB, more=True,
                         factor=True),
           report.Metric("of-limit", "of the limit, %", 100),
           lab.MOVE_METRICS["total-ms"]._replace(factor=False),
           *lab.move_metrics("sent-bytes", "downtime-ms", "cpu-s")]
LIMIT = os.path.join(lab.BUILD, "bench", "limit")


class Full:
    def __init__(self, bench, options):
        self.bench, self.options = bench, options
        self.limits = {}  # tcp -> rates, of this round

    def limit(self, tcp, channels):
        mib = re.search(r"gw\.touch=(\d+)", self.options.guest)[1]
        lab.touch_memory(int(mib))
        p = subprocess.run([LIMIT, "--channels", str(channels), "--mib", mib,
                            *(["--tcp"] if tcp else [])],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           text=True)
        if p.returncode:
            raise lab.Failed(p.stderr)
        rate = float(p.stdout)
        self.limits.setdefault(tcp, {})[channels] = rate
        return {"rate": rate}

    def share(self, rate, tcp):
        best = max(self.limits.get(tcp, {}).values(), default=None)
        return best and rate / best

    def move(self, tcp, own, channels, pages=()):
        self.options.tcp = tcp
        self.bench.run_options = list(pages)
        ours = ["--channels", str(channels)] if channels else []
        if own:
            m = self.bench.move(True, *(["multifd"] if channels else []),
                                **({"multifd_channels": channels}
                                   if channels else {}))
        else:
            m = self.bench.move(False, *ours)
        rate = m.sent / m.total * 1e3
        return {"rate": rate, "of-limit": self.share(rate, tcp),
                **m.values()}


def cases(bench, options):
    full = Full(bench, options)
    for transport in options.transports:
        tcp = transport == "tcp"
        for n in options.channels:
            yield transport, f"limit, {n}", functools.partial(
                full.limit, tcp, n)
        for n in (0, *options.channels):
            yield transport, f"godwit, {lab.channels(n)}" if n else "godwit", \
                functools.partial(full.move, tcp, False, n)
            yield transport, f"QEMU, multifd {n}" if n else "QEMU", \
                functools.partial(full.move, tcp, True, n)
        most = options.channels[-1]
        yield transport, f"godwit, {lab.channels(most)}, small pages", \
            functools.partial(full.move, tcp, False, most, lab.SMALL_PAGES)


if __name__ == "__main__":
    parser = measure.arguments(__doc__, runs=5, memory=2048,
                               guest="gw.tick=50 gw.touch=1536")
    parser.add_argument("--transports", nargs="+", choices=["unix", "tcp"],
                        default=["unix", "tcp"])
    parser.add_argument("--channels", type=int, nargs="+", metavar="N",
                        default=[1, 2, 4], help="beside the one (1 2 4)")
    sys.exit(measure.run(cases, METRICS, parser, quick={
        "memory": 256, "channels": [2], "transports": ["unix"],
        "guest": "gw.tick=20 gw.touch=96"}))
