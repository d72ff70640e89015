#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""What does it cost to move a large guest that uses little of its memory?

Idle guests of 4 and of 16 GiB that wrote 200 MiB once are moved by godwit and
by QEMU's own migration, plainly and over several connections, in turn, in one
run. Time and bytes are to follow what the guest used and not what it has. CPU
time is that of both QEMUs and both godwits while they move, the idle guest's
own among it. "source grew" is by how much more memory the source's QEMU, and
`godwit migrate`, had resident at most.
Beside the VM's own memory godwit may use little: the private memory of both
its processes is sampled, and more than a limit is a failure.
"""
import functools
import sys

import lab
import measure

LIMIT_KB = 64 << 10  # private memory of `migrate` and `receive` together
METRICS = lab.move_metrics("total-ms", "sent-bytes", "downtime-ms", "cpu-s",
                           "growth-kib", "memory-kib")


TWO = "--channels", "2"
# Own RAM, godwit's options or QEMU's capabilities, QEMU's parameters, options
# of `godwit run`.
SIDES = {"godwit": (False, (), {}, []),
         "godwit, 2 channels": (False, TWO, {}, []),
         "godwit, 2 channels, small pages": (False, TWO, {}, lab.SMALL_PAGES),
         "QEMU": (True, (), {}, []),
         "QEMU, multifd 2": (True, ("multifd",), {"multifd_channels": 2}, [])}


def one(bench, options, side, memory):
    options.memory = memory
    own, switches, parameters, bench.run_options = SIDES[side]
    m = bench.move(own, *switches, **parameters)
    if m.memory > LIMIT_KB:
        raise lab.Failed(f"godwit used {m.memory >> 10} MiB of its own, more "
                         f"than {LIMIT_KB >> 10}")
    return m.values()


def cases(bench, options):
    for memory in options.sizes:
        for side in SIDES:
            yield f"{memory} MiB", side, functools.partial(
                one, bench, options, side, memory)


if __name__ == "__main__":
    parser = measure.arguments(__doc__, runs=5, memory=None,
                               guest="gw.tick=20 gw.touch=200")
    parser.add_argument("--sizes", type=int, nargs="+", metavar="MIB",
                        default=[4096, 16384],
                        help="RAM of the guests (4096 16384)")
    sys.exit(measure.run(cases, METRICS, parser,
                         quick={"sizes": [512],
                                "guest": "gw.tick=20 gw.touch=48"}))
