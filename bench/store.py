#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""What does it cost to save a VM in a file, and to restore it?

A guest of 2 GiB with 1 GiB of random data, 0.5 GiB that is zero but was used,
and the rest untouched, is saved and restored by godwit and by QEMU itself, in
turn, in one run: as a stream and as a mapped-ram file, in memory (tmpfs) and on
disk, with and without direct I/O. The VM stands while it is saved, on both
sides, and goes on afterwards. A save ends when the file is on disk: godwit's
fsync is part of its time, QEMU's file is synced for it, and that time counted.
With the files at hand, `convert`, `info` and `verify` are timed too.
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import lab

# name -> (format, direct I/O, QEMU's capabilities and parameters)
KINDS = {
    "stream": ("stream", False, [], {}),
    "mapped-ram": ("mapped-ram", False, ["mapped-ram", "multifd"],
                   {"multifd-channels": 2}),
    "mapped-ram direct-io": ("mapped-ram", True, ["mapped-ram", "multifd"],
                             {"multifd-channels": 2, "direct-io": True}),
}


def capabilities(q, names):
    q("migrate-set-capabilities", capabilities=[
        {"capability": c, "state": c in names or c == "events"}
        for c in ("events", "mapped-ram", "multifd")])


def configure(q, kind):
    _, _, caps, params = KINDS[kind]
    capabilities(q, caps)
    q("migrate-set-parameters", **{"max-bandwidth": 1 << 40,
                                   "direct-io": False, **params})


def sync(path):
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)


def qemu_save(guest, q, kind, path):
    configure(q, kind)
    q.events.clear()
    t0 = time.monotonic()
    q("stop")
    q("migrate", uri="file:" + path)
    q.wait_migration()
    sync(path)
    took = time.monotonic() - t0
    while q("query-status")["status"] != "postmigrate":
        time.sleep(0.001)
    q("cont")
    return took


def godwit(bench, *args):
    t0 = time.monotonic()
    p = bench.start([lab.GODWIT, *args], args[0])
    if p.wait():
        raise lab.Failed(f"godwit {args[0]}: " + bench.log(args[0]))
    return time.monotonic() - t0


def godwit_save(bench, guest, kind, path):
    fmt, direct, _, _ = KINDS[kind]
    return godwit(bench, "save", guest.name, path, "--format", fmt, "-q",
                  *(["--direct-io"] if direct else []))


def wait_loaded(q):
    while q("query-status")["status"] == "inmigrate":
        time.sleep(0.001)


def qemu_restore(bench, kind, path):
    b = lab.Guest(bench, f"q{time.monotonic_ns()}", True, incoming=True)
    q = b.wait_qmp()
    configure(q, kind)
    t0 = time.monotonic()
    q("migrate-incoming", uri="file:" + path)
    wait_loaded(q)
    took = time.monotonic() - t0
    q("cont")  # it was stopped when it was saved
    finish(b)
    return took


def godwit_restore(bench, kind, path):
    b = lab.Guest(bench, f"g{time.monotonic_ns()}", False, incoming=True)
    b.wait_qmp()
    took = godwit(bench, "restore", path, b.name, "-q")
    finish(b)
    return took


def finish(b):
    b.wait_tick()
    b.proc.kill()
    b.proc.wait()


def drop_caches():
    os.sync()
    try:
        with open("/proc/sys/vm/drop_caches", "w") as f:
            f.write("1")
    except OSError:
        pass  # not root: both sides read from the page cache then


def rows(bench, options, folder, where, say):
    """One folder: every kind saved and restored, sides in turn."""
    own = lab.Guest(bench, "own" + where, True)
    ours = lab.Guest(bench, "ours" + where, False)
    for g in own, ours:
        g.wait_tick(3, 600)
    q = own.wait_qmp()
    out = {}
    for kind in KINDS:
        if where == "tmpfs" and KINDS[kind][1]:
            continue  # O_DIRECT there is none
        sides = {"godwit": {"save": [], "restore": []},
                 "QEMU": {"save": [], "restore": []}}
        for i in range(options.runs):
            files = {s: os.path.join(folder, s) for s in sides}
            sides["godwit"]["save"].append(
                godwit_save(bench, ours, kind, files["godwit"]))
            sides["QEMU"]["save"].append(
                qemu_save(own, q, kind, files["QEMU"]))
            drop_caches()
            sides["godwit"]["restore"].append(
                godwit_restore(bench, kind, files["godwit"]))
            drop_caches()
            sides["QEMU"]["restore"].append(
                qemu_restore(bench, kind, files["QEMU"]))
            say(f"{i + 1}/{options.runs} {where:5} {kind:20} " + "  ".join(
                f"{s} save {v['save'][-1]:5.2f} s restore "
                f"{v['restore'][-1]:5.2f} s" for s, v in sides.items()))
        out[kind] = sides
        if where == "tmpfs":
            keep = os.path.join(folder, kind)
            os.rename(files["godwit"], keep)
    for g in own, ours:
        g.proc.kill()
        g.proc.wait()
    return out


def tools(bench, options, folder):
    """convert, info and verify on the files in memory: seconds, medians."""
    out = {}
    target = os.path.join(folder, "converted")
    for kind, other in ("stream", "mapped-ram"), ("mapped-ram", "stream"):
        path = os.path.join(folder, kind)
        for name, args in {
                f"convert {kind} to {other}":
                ("convert", path, target, "--format", other, "-q"),
                f"info {kind}": ("info", path),
                f"verify {kind}": ("verify", path, "-q")}.items():
            out[name] = statistics.median(
                godwit(bench, *args) for _ in range(options.runs))
    return out


def table(results):
    lines = [f"{'':32}{'godwit s':>10}{'QEMU s':>10}{'godwit/QEMU':>13}"]
    for where, kinds in results.items():
        for kind, sides in kinds.items():
            for what in ("save", "restore"):
                a, b = (statistics.median(sides[s][what])
                        for s in ("godwit", "QEMU"))
                lines.append(f"{what + ' ' + where + ' ' + kind:32}{a:10.2f}"
                             f"{b:10.2f}{a / b:13.2f}")
    return "\n".join(lines)


def run(bench, options):
    say = (lambda _: None) if options.json else \
        (lambda text: print(text, flush=True))
    disk = tempfile.mkdtemp(prefix="godwit-bench.", dir=options.disk)
    try:
        results = {"tmpfs": rows(bench, options, bench.dir, "tmpfs", say)}
        seconds = tools(bench, options, bench.dir)
        results["disk"] = rows(bench, options, disk, "disk", say)
    finally:
        shutil.rmtree(disk, ignore_errors=True)
    if options.json:
        print(json.dumps({"bench": "store", "runs": options.runs,
                          "guest": options.guest, "seconds": results,
                          "tools": seconds}, indent=2))
        return 0
    gib = options.memory / 1024
    print(f"\nguest: {options.memory} MiB, {options.guest}; {options.runs} "
          f"runs each, medians\n{table(results)}")
    for name, s in seconds.items():
        print(f"{name:32}{s:10.2f} s{gib / s:8.1f} GiB of RAM per second")
    return 0


if __name__ == "__main__":
    parser = lab.arguments(
        argparse.ArgumentParser(prog="store.py", description=__doc__,
                                formatter_class=argparse.
                                RawDescriptionHelpFormatter),
        runs=5, memory=2048,
        guest="gw.tick=50 gw.clear=512 gw.touch=1024")
    parser.add_argument("--disk", default=lab.TOP,
                        help="a folder on a disk (the project's)")
    sys.exit(lab.main(run, parser))
