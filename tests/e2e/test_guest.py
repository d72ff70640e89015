# SPDX-License-Identifier: BSD-3-Clause
"""The guest of the other tests sees damage to its memory: what it says of a
bit that was flipped from outside."""
import contextlib
import mmap
import re
import struct

import pytest

from harness import ram_path, wait_until

PAGE = 4096
MASK = (1 << 64) - 1


def mix(x):
    """gw_mix() of tests/guest/pattern.h"""
    x = (x + 0x9e3779b97f4a7c15) & MASK
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9 & MASK
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb & MASK
    return x ^ (x >> 31)


def fill(words, seed):
    """gw_fill()"""
    out, x = [], mix(seed)
    for _ in range(words):
        out.append(x)
        x = (x * 6364136223846793005 + 1442695040888963407) & MASK
    return struct.pack(f"<{words}Q", *out)


@contextlib.contextmanager
def ram(guest):
    with open(ram_path(guest), "r+b") as f, mmap.mmap(f.fileno(), 0) as m:
        yield m


# name -> (of the command line, BYTES and EVERY, a byte of page 7 that is none
# of those that change; None: all do)
LOADS = {
    "sparse": ("12:1111", 12, 1111, 2000),
    "medium": ("33:701", 33, 701, 2000),
    "one": ("1:4096", 1, 4096, 2000),
    "dense": ("4096:4096", 4096, 4096, None),
}


@pytest.mark.parametrize("load", ["sparse", "dense", *(
    pytest.param(x, marks=pytest.mark.soak) for x in ("medium", "one"))])
def test_a_flipped_bit_in_what_the_looper_writes_is_found(env, load):
    spec, length, every, offset = LOADS[load]
    a = env.guest("a", append=f"gw.tick=20 gw.loop=4:20000:{spec}")
    a.wait_tick(20)
    last = a.assert_healthy()[-1]
    assert last.loop > 0
    base = fill(PAGE // 8, 7 ^ 0x706f6f6c)
    with ram(a) as m:
        key = base[1024:1024 + 64] if offset else None
        if key:
            at = m.find(key) - 1024
            assert at % PAGE == 0 and m.find(key, at + PAGE) == -1
        else:
            at = wait_until("page 7", lambda: find_dense(m, base))
        m[at + (offset or 2000)] ^= 0x10
    wait_until("complaint", lambda: a.ticks()[-1].bad)
    said = next(x for x in a.lines() if x.startswith("BAD"))
    assert re.match(r"BAD loop page=7 va=0x[0-9a-f]+ mixed want=\d+ word=250 "
                    r"has=[0-9a-f]{16}$", said), said


def find_dense(m, base):
    """Where is the page of which every byte is base + g + (g >> 8) * i? None
    if it was being written just now."""
    for at in range(0, len(m), PAGE):
        g = (m[at] - base[0]) & 255
        step = (m[at + 1] - base[1] - g) & 255
        if all(m[at + i] == (base[i] + g + step * i) & 255
               for i in range(2, 64)):
            return at
    return None
