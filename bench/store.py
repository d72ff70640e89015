#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""What does it cost to save a VM in a file, and to restore it?

A guest of 2 GiB with 1 GiB of random data, 0.5 GiB that is zero but was used,
and the rest untouched, is saved and restored by godwit and by QEMU itself, in
turn, in one run: as a stream and as a mapped-ram file, with 1, 2 and 4 channels
(QEMU: of multifd, godwit: threads), in memory (tmpfs) and on disk, with and
without direct I/O. The VM stands while it is saved, on both sides, and goes on
afterwards. A save ends when the file is on disk: godwit's
fsync is part of its time, QEMU's file is synced for it, and that time counted.
With the files at hand, `convert`, `info` and `verify` are timed too.
"""
import functools
import os
import shutil
import sys
import tempfile
import time
from typing import NamedTuple

import lab
import measure
import report

METRICS = [report.Metric("seconds", "s", form=".2f", factor=True),
           report.Metric("rate", "RAM, GiB/s", form=".1f", more=True)]


class Kind(NamedTuple):
    """A way to store a VM."""
    format: str
    channels: int = 0   # 0: no choice
    direct: bool = False

    def __str__(self):
        return self.format + (f", {lab.channels(self.channels)}"
                              if self.channels else "") + \
            (", direct I/O" if self.direct else "")

    def ours(self):
        """Options of restore, and of save."""
        both = [*(["--channels", str(self.channels)] if self.channels else []),
                *(["--direct-io"] if self.direct else [])]
        return both, ["--format", self.format, *both]

    def theirs(self):
        """Capabilities and parameters."""
        if not self.channels:
            return (), {}
        return ("mapped-ram", "multifd"), {"multifd-channels": self.channels,
                                           "direct-io": self.direct}


def kinds(channels):
    return [Kind("stream"), *(Kind("mapped-ram", n, direct)
                              for direct in (False, True) for n in channels)]


def configure(q, kind):
    names, params = kind.theirs()
    q("migrate-set-capabilities", capabilities=[
        {"capability": c, "state": c in names or c == "events"}
        for c in ("events", "mapped-ram", "multifd")])
    q("migrate-set-parameters", **{"max-bandwidth": 1 << 40,
                                   "direct-io": False, **params})


def sync(path):
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def qemu_save(guest, kind, path):
    q = guest.wait_qmp()
    configure(q, kind)
    lab.touch_memory(guest.lab.options.memory)
    t0 = time.monotonic()
    q("stop")
    q("migrate", uri="file:" + path)
    q.wait_migration()
    sync(path)
    took = time.monotonic() - t0
    while q("query-status")["status"] != "postmigrate":
        time.sleep(0.001)
    q("cont")
    q.close()
    return took


def godwit(bench, *args):
    lab.touch_memory(bench.options.memory)
    t0 = time.monotonic()
    p = bench.start([lab.GODWIT, *args], args[0])
    if p.wait():
        raise lab.Failed(f"godwit {args[0]}: " + bench.log(args[0]))
    return time.monotonic() - t0


def qemu_restore(bench, kind, path):
    b = lab.Guest(bench, f"q{time.monotonic_ns()}", True, incoming=True)
    q = b.wait_qmp()
    configure(q, kind)
    lab.touch_memory(bench.options.memory)
    t0 = time.monotonic()
    q("migrate-incoming", uri="file:" + path)
    while q("query-status")["status"] == "inmigrate":
        time.sleep(0.001)
    took = time.monotonic() - t0
    q("cont")  # it was stopped when it was saved
    finish(b)
    return took


def godwit_restore(bench, kind, path):
    b = lab.Guest(bench, f"g{time.monotonic_ns()}", False, incoming=True)
    b.wait_qmp()
    took = godwit(bench, "restore", path, b.name, "-q", *kind.ours()[0])
    finish(b)
    return took


def finish(b):
    """It runs: that is all we wanted to know of it."""
    b.wait_tick()
    b.lab.end(b)


def drop_caches():
    os.sync()
    try:
        with open("/proc/sys/vm/drop_caches", "w") as f:
            f.write("1")
    except OSError:
        pass  # not root: both sides read from the page cache then


def warm(path):
    """Read it once, all of it from the disk: what is beneath a virtual disk
    may cache it, too, and has one file and not the other."""
    drop_caches()
    buf = bytearray(lab.MIB)
    with open(path, "rb", buffering=0) as f:
        while f.readinto(buf):
            pass


class Store:
    """Both guests, which live as long as the bench, and their files."""

    def __init__(self, bench, options):
        self.bench, self.options = bench, options
        self.guests = {}

    def guest(self, side):
        if side not in self.guests:
            g = lab.Guest(self.bench, "store-" + side, side == "QEMU")
            g.wait_tick(3, 600)
            self.guests[side] = g
        return self.guests[side]

    def values(self, seconds):
        return {"seconds": seconds,
                "rate": self.options.memory / 1024 / seconds}

    def save(self, side, kind, path):
        g = self.guest(side)
        return self.values(
            qemu_save(g, kind, path) if side == "QEMU" else
            godwit(self.bench, "save", g.name, path, "-q", *kind.ours()[1]))

    def restore(self, side, kind, path):
        warm(path)
        drop_caches()
        how = qemu_restore if side == "QEMU" else godwit_restore
        return self.values(how(self.bench, kind, path))

    def tool(self, *args):
        return self.values(godwit(self.bench, *args))

    def tools(self, kind, path):
        """convert, info and verify, of the file that is there just now."""
        other = "mapped-ram" if kind.format == "stream" else "stream"
        for name, args in {
                f"convert {kind.format} to {other}":
                ("convert", path, path + ".converted", "--format", other,
                 "-q"),
                f"info, {kind.format}": ("info", path),
                f"verify, {kind.format}": ("verify", path, "-q")}.items():
            yield name, "godwit", functools.partial(self.tool, *args)


def cases(bench, options):
    store = Store(bench, options)
    sides = "godwit", "QEMU"
    folders = {"tmpfs": bench.dir, "disk": tempfile.mkdtemp(
        prefix="godwit-bench.", dir=options.disk)}
    bench.cleanup.callback(shutil.rmtree, folders["disk"], ignore_errors=True)
    for where, folder in folders.items():
        paths = {side: os.path.join(folder, side) for side in sides}
        for kind in kinds(options.channels):
            if where == "tmpfs" and kind.direct:
                continue  # O_DIRECT there is none
            for what in "save", "restore":
                for side in sides:
                    yield (f"{what}, {where}, {kind}", side, functools.partial(
                        getattr(store, what), side, kind, paths[side]))
            if where == "tmpfs" and kind.channels in (0, options.channels[0]):
                yield from store.tools(kind, paths["godwit"])


if __name__ == "__main__":
    parser = measure.arguments(
        __doc__, runs=5, memory=2048,
        guest="gw.tick=50 gw.clear=512 gw.touch=1024")
    parser.add_argument("--disk", default=lab.TOP,
                        help="a folder on a disk (the project's)")
    parser.add_argument("--channels", type=int, nargs="+", metavar="N",
                        default=[1, 2, 4], help="of mapped-ram (1 2 4)")
    sys.exit(measure.run(cases, METRICS, parser, quick={
        "memory": 256, "channels": [2],
        "guest": "gw.tick=50 gw.clear=32 gw.touch=96"}))
