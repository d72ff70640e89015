#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Does a VM that writes faster than the link can carry still move?

One guest of busy.py on a slow link: it rewrites 32 MiB in a loop, 20,000 pages
a second, 12 bytes in every 1111 (--writer: 33 in every 701, all bytes, one per
page), which is more than 32 MiB/s let through, so plain precopy goes round and
round. It is moved plainly, with XBZRLE, with XBZRLE over two more connections,
and by auto-converge, by godwit and by QEMU itself (which has no XBZRLE with
multifd), in turn, in one run. What the columns are: busy.py --help.
"""
import functools
import sys

import busy
import lab
import measure


def cases(bench, options):
    cell = busy.Cell(options.loop, options.rate, options.writer,
                     options.bandwidth * lab.MIB)
    herd = busy.Herd(bench, options)
    for way in options.ways:
        yield f"{options.bandwidth} MiB/s, {options.writer}", way, \
            functools.partial(busy.one, herd, busy.policy_of(options), cell,
                              way)


if __name__ == "__main__":
    parser = busy.arguments(__doc__, 5, [*busy.WAYS], 40)
    parser.add_argument("--writer", choices=busy.WRITERS, default="sparse")
    parser.add_argument("--loop", type=int, default=32, metavar="MIB",
                        help="that the guest rewrites (32)")
    parser.add_argument("--rate", type=int, default=20000, metavar="N",
                        help="pages that it rewrites in a second; 0: all it "
                        "can (20000)")
    parser.add_argument("--bandwidth", type=int, default=32, metavar="MIB",
                        help="per second, of both sides (32)")
    sys.exit(measure.run(cases, busy.METRICS, parser, quick={
        "ways": ["godwit xbzrle", "QEMU xbzrle"], "spare": 224, "loop": 16,
        "limit": 15}, by_case=True))
