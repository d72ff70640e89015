# SPDX-License-Identifier: BSD-3-Clause
"""XBZRLE, channels, compression and trackers in every combination; one of
several connections that is cut, stalls or comes in pieces. What plain QEMUs
send or take over channels is in test_receive.py and test_multifd_out.py, more of
it here for `make soak`.

The guest runs the writer of 2011 (gw.loop: 12 bytes change in every 1111, and
every third round makes its pages zero) beside the usual loads, and checks all
of it, before and after. Between two godwits --verify compares all RAM as well.
"""
import contextlib
import itertools
import os
import shlex
import socket
import struct
import threading
import time

import pytest

import harness
from harness import (OK, UNCERTAIN, Pair, assert_one_story,
                     said, wait_until)
from test_move import Traveller

TCP = "tcp:127.0.0.1:0"
LOOP_MIB, LOOP_RATE = 8, 4000
BUSY = (f"gw.tick=20 gw.dirty=16:2000:64 gw.zero=10 gw.touch=16 "
        f"gw.loop={LOOP_MIB}:{LOOP_RATE} gw.blank=3")
# Passes enough to have something to make deltas of.
SLOW = ("--max-bandwidth", "80M", "--downtime-limit", "60ms")
OLD, NEW = "pc-i440fx-7.2", "pc-i440fx-10.0"


def looked_at(guest):
    """The guest has checked each page of its writers once more."""
    last = guest.wait_more_ticks(3)
    wait_until(f"a whole round of checks in {guest.name}", lambda:
               guest.ticks()[-1].loop > last.loop + 4 * LOOP_MIB * 256, 120)


# --- every combination ------------------------------------------------------

VALUES = {"channels": (0, 1, 2, 4), "xbzrle": ("off", "on"),
          "compress": ("none", "zstd", "auto"),
          "tracker": ("pagemap-scan", "uffd-wp")}
ALL = list(itertools.product(*VALUES.values()))


def pairs(row):
    """Of values, by the places of both."""
    return {(i, j, row[i], row[j])
            for i, j in itertools.combinations(range(len(row)), 2)}


def covering(rows):
    """Some of @rows that have every pair of values between them: always the
    one with most new pairs."""
    missing, out = set().union(*map(pairs, rows)), []
    while missing:
        out.append(max(rows, key=lambda r: len(missing & pairs(r))))
        missing -= pairs(out[-1])
    return out


USUAL = covering(ALL)


def row_id(row):
    channels, xbzrle, compress, tracker = row
    return f"{channels}-{'xbzrle-' if xbzrle == 'on' else ''}{compress}-" \
        f"{tracker}"


def test_the_usual_rows_have_every_pair_of_values():
    assert set().union(*map(pairs, USUAL)) == set().union(*map(pairs, ALL))
    assert len(USUAL) < len(ALL) / 3
    print("rows of make check:", *map(row_id, USUAL))


@pytest.fixture(scope="module")
def station(module_env):
    return Traveller(module_env, append=BUSY, cpus=2)


@pytest.fixture
def traveller(station):
    station.board()
    return station


def the_numbers_are_right(result, channels, xbzrle, compress, tracker):
    ram, cache = result["ram"], result.get("xbzrle-cache")
    assert result["tracker"] == tracker
    assert ram["dirty-sync-count"] > 2
    if channels or compress == "zstd":
        assert result["channels"] == max(channels, 1)
        assert 0 < ram["multifd-bytes"] < ram["transferred"]
    elif compress == "none":
        assert not result.get("channels") and not ram.get("multifd-bytes")
    if xbzrle == "on":
        assert cache["pages"] > 100, cache
        assert cache["pages"] >= cache.get("same", 0) + cache["overflow"]
        assert cache["bytes"] < (cache["pages"] - cache.get("same", 0)) * 4096
    else:
        assert not cache
    if compress == "zstd":
        c = result["compress"]
        assert c["method"] == "zstd" and c["pages"] > 1000
        assert c["compressed-bytes"] < c["bytes"]
    elif compress == "auto":
        assert result["compress"]["reason"]
    else:
        assert not result.get("compress")


@pytest.mark.parametrize("channels, xbzrle, compress, tracker", [
    pytest.param(*row, id=row_id(row), marks=[] if row in USUAL else
                 [pytest.mark.soak]) for row in ALL])
def test_moves_with(traveller, channels, xbzrle, compress, tracker):
    if tracker == "uffd-wp":
        traveller.into_small_pages()
    b = traveller.fresh()
    result = traveller.env.move(
        traveller.at, b, *SLOW, "--channels", channels, "--xbzrle=" + xbzrle,
        "--compress", compress, "--tracker", tracker)
    the_numbers_are_right(result, channels, xbzrle, compress, tracker)
    looked_at(b)
    traveller.arrived(b)


@pytest.mark.parametrize("xbzrle", ["off", "on"])
def test_moves_by_reference_over_unix_sockets(traveller, xbzrle):
    """The destination reads the guest's RAM while the guest writes to it."""
    b = traveller.fresh()
    result = traveller.env.move(
        traveller.at, b, *SLOW, "--channels", 2, "--xbzrle=" + xbzrle,
        uri=f"unix:{traveller.env.dir}/channels.sock")
    the_numbers_are_right(result, 2, xbzrle, "none", "pagemap-scan")
    looked_at(b)
    traveller.arrived(b)


@pytest.mark.parametrize("channels", [0, 2])
@pytest.mark.parametrize("cache", ["64M", pytest.param(
    "4M", marks=pytest.mark.soak)])
def test_pages_that_become_zero_and_something_else_again(env, cache, channels):
    """A, sent and remembered; zero, sent; B, which is A but for a few bytes:
    a difference to A would be short, and wrong. All of the writer's pages do
    so all the time, as fast as passes follow each other."""
    kw = dict(append="gw.tick=20 gw.loop=16:20000 gw.blank=3")
    a = env.guest("a", **kw)
    b = env.guest("b", incoming=True, **kw)
    a.wait_tick(20)
    rx, at = env.receive(b)
    tx = env.migrate(a, at, "--verify", "--xbzrle", "--cache-size", cache,
                     "--channels", channels, "--max-bandwidth", "30M",
                     "--downtime-limit", "0ms", "--stall-passes", "10",
                     "--max-downtime", "30s")
    assert tx.wait() == OK and rx.wait() == OK, tx.stderr() + rx.stderr()
    last = tx.result()
    assert last["verified-pages"] == last["ram"]["total"] // 4096
    assert last["ram"]["dirty-sync-count"] > 10
    assert last["xbzrle-cache"]["pages"] > 1000, last["xbzrle-cache"]
    bulk = [e["ram"]["duplicate"] for e in tx.events()
            if e["ram"]["dirty-sync-count"] == 1]
    assert last["ram"]["duplicate"] > bulk[-1] + 4096, "nothing became zero"
    seen = b.wait_more_ticks(3).loop
    wait_until("a whole round of checks",
               lambda: b.ticks()[-1].loop > seen + 4 * 4096, 120)
    assert_one_story(a, b)


# --- connections that misbehave ---------------------------------------------

class Road:
    """Carries any number of connections to @at; the one numbered @which (the
    main one is 0) has something happen to it on the way forth."""

    def __init__(self, at, which, pieces=0, delay=0, cut=None):
        self.to = ("127.0.0.1", int(at.rsplit(":", 1)[1]))
        self.which, self.pieces = which, pieces
        self.delay, self.cut = delay, cut
        self.seen, self.happened, self.all = 0, False, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"tcp:127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                near = self.listener.accept()[0]
                far = socket.create_connection(self.to)
                for s in near, far:
                    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    self.all.append(s)
                harmed = self.seen == self.which
                self.seen += 1
                for job in ((near, far, harmed), (far, near, False)):
                    threading.Thread(target=self.carry, args=job,
                                     daemon=True).start()

    def carry(self, src, dst, harmed):
        gone = 0
        try:
            while data := src.recv(1 << 18):
                if not harmed:
                    dst.sendall(data)
                    continue
                self.harm(dst, data, gone)
                gone += len(data)
            dst.shutdown(socket.SHUT_WR)
        except OSError:
            self.reset(src, dst)

    def harm(self, dst, data, gone):
        """@pieces bytes go one by one, each piece of data later by @delay
        seconds; after @cut bytes the cable is cut."""
        if self.delay:
            time.sleep(self.delay)
            self.happened = True
        if self.cut is not None and gone + len(data) > self.cut:
            dst.sendall(data[:self.cut - gone])
            self.happened = True
            raise OSError("cut")
        single = max(0, min(self.pieces - gone, len(data)))
        for i in range(single):
            dst.sendall(data[i:i + 1])
            self.happened = True
        dst.sendall(data[single:])

    @staticmethod
    def reset(*ends):
        for s in ends:
            with contextlib.suppress(OSError):
                s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                             struct.pack("ii", 1, 0))
                s.shutdown(socket.SHUT_RDWR)
                s.close()

    def close(self):
        # accept() is not woken by close()
        with contextlib.suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.reset(*self.all)


class Survivors(Pair):
    """A VM that runs and one that waits, with the writers of this file."""

    def new(self, **kw):
        return super().new(append=BUSY, cpus=2, **kw)

    def arrived(self):
        """It went to b; what b is now waits for the next test."""
        a, b = self.a, self.b
        looked_at(b)
        assert_one_story(a, b)
        assert a.status() == "postmigrate"
        a.kill()
        self.a, self.b = b, self.new(incoming=True)
        self.b.wait_up()
        self.hurt = False

    def settled(self, tx, rx, sure=True):
        """Both have ended: the VM is there, or it is here and nothing of it
        is there. @sure: that a lost connection leaves no doubt."""
        codes = tx.wait(300), rx.wait(300)
        if codes[0] == OK:
            assert codes[1] == OK, rx.stderr()
            self.arrived()
            return True
        assert codes[1] != OK, (codes, tx.stderr(), rx.stderr())
        assert UNCERTAIN not in codes or not sure, (codes, tx.stderr(),
                                                    rx.stderr())
        assert "runs on here" in said(tx), tx.stderr()
        self.unharmed()
        return False


@pytest.fixture(scope="module")
def survivors(module_env):
    return Survivors(module_env)


@pytest.fixture
def pair(survivors):
    survivors.ready()
    return survivors


HOW = {"channels": ("--channels", "2"),
       "channels-xbzrle": ("--channels", "2", "--xbzrle"),
       "channels-zstd": ("--channels", "2", "--compress", "zstd"),
       "xbzrle": ("--channels", "0", "--xbzrle")}


# where: the number of the connection, in the order of connecting
@pytest.mark.parametrize("where", [0, 1, 2], ids=["main", "first", "second"])
@pytest.mark.parametrize("fault", [
    dict(pieces=30000), dict(delay=0.002), dict(cut=20), dict(cut=200),
    dict(cut=3 << 20)], ids=lambda f: "-".join(
        f"{k}-{v}" for k, v in f.items()))
@pytest.mark.parametrize("how", ["channels-xbzrle", pytest.param(
    "channels-zstd", marks=pytest.mark.soak), pytest.param(
        "channels", marks=pytest.mark.soak)])
def test_one_connection_misbehaves(pair, how, fault, where):
    if where == 0 and fault.get("cut", 0) > 1000:
        # pages are on the channels: 60 kB into it there are records only
        fault = dict(cut=2000)
    rx, at = pair.env.receive(pair.b, TCP, "--connect-timeout", "5s")
    road = Road(at, where, **fault)
    try:
        tx = pair.env.migrate(pair.a, road.uri, *SLOW, *HOW[how], "--verify",
                              "--handover-timeout", "60s")
        moved = pair.settled(tx, rx)
        assert road.happened, "nothing happened on that connection"
        assert moved == ("cut" not in fault), tx.stderr() + rx.stderr()
        assert road.seen == 3 or not where
    finally:
        road.close()


FAULTS = ["short=1-64,seed=3", "delay-write=300us", "delay-read=300us",
          "short=1000,rate=60M"]


@pytest.mark.parametrize("how", ["channels-xbzrle", *(
    pytest.param(x, marks=pytest.mark.soak)
    for x in ("channels", "channels-zstd", "xbzrle"))])
@pytest.mark.parametrize("side", ["source", "destination"])
@pytest.mark.parametrize("fault", [*FAULTS, pytest.param(
    "short=1", marks=pytest.mark.soak)])
def test_all_connections_come_in_pieces_or_late(pair, fault, side, how):
    there = side == "destination"
    rx, at = pair.env.receive(pair.b, f"fault:{fault}+{TCP}" if there else TCP)
    tx = pair.env.migrate(pair.a, at if there else f"fault:{fault}+{at}",
                          *SLOW, *HOW[how], "--verify",
                          "--handover-timeout", "60s")
    assert pair.settled(tx, rx), tx.stderr() + rx.stderr()


# Pages only go one way; cut where few bytes pass the move may succeed.
CUTS = [(n, side, way) for n in (30, 100, 70, 500, 5000, 2 << 20)
        for side in ("source", "destination") for way in ("read", "write")
        if n < 5000 or (side, way) in (("source", "write"),
                                       ("destination", "read"))]


@pytest.mark.parametrize("how", ["channels-xbzrle", *(
    pytest.param(x, marks=pytest.mark.soak)
    for x in ("channels", "channels-zstd", "xbzrle"))])
@pytest.mark.parametrize("bytes_, side, way", [
    pytest.param(*cut, marks=[] if cut[0] in (30, 2 << 20) else
                 [pytest.mark.soak]) for cut in CUTS])
def test_every_connection_is_cut_after(pair, bytes_, side, way, how):
    fault = f"cut-{way}={bytes_}"
    there = side == "destination"
    rx, at = pair.env.receive(pair.b, f"fault:{fault}+{TCP}" if there else TCP)
    tx = pair.env.migrate(pair.a, at if there else f"fault:{fault}+{at}",
                          *SLOW, *HOW[how], "--verify")
    moved = pair.settled(tx, rx)
    assert not moved or bytes_ in (70, 100, 500)


def test_a_channel_that_stalls_ends_the_move(pair):
    """Nothing comes on one channel any more; all others are well."""
    rx, at = pair.env.receive(pair.b, TCP, "--idle-timeout", "3s")
    road = Road(at, 1, delay=30)
    try:
        tx = pair.env.migrate(pair.a, road.uri, *SLOW, *HOW["channels"],
                              "--idle-timeout", "3s")
        assert not pair.settled(tx, rx)
    finally:
        road.close()


# --- into a plain QEMU -------------------------------------------------------

def to_qemu(env, a, uri, *options):
    return env.migrate(a, uri, "--to-qemu", *SLOW, *options)


@pytest.mark.parametrize("machine", [OLD, NEW])
def test_into_a_plain_qemu_by_xbzrle(env, machine):
    kw = dict(append=BUSY, machine=machine)
    a = env.guest("a", **kw)
    b = env.plain("b", incoming="defer", **kw)
    a.wait_tick(20)
    b.wait_up()
    b.set("xbzrle")
    g = to_qemu(env, a, b.listen(), "--xbzrle")
    assert g.wait() == OK, g.stderr() + env.read("b.qemu")
    result = g.result()
    assert result["ram"]["dirty-sync-count"] > 2
    assert result["xbzrle-cache"]["pages"] > 100
    assert a.status() == "postmigrate"
    looked_at(b)
    assert_one_story(a, b)


@pytest.mark.parametrize("theirs", [
    dict(channels=None), dict(channels=1), dict(channels=4)],
    ids=["no-multifd", "one", "four"])
def test_a_plain_qemu_with_other_channels_refuses_and_the_vm_stays(env,
                                                                   theirs):
    """It waits for other connections than come, or for none."""
    kw = dict(append=BUSY)
    a = env.guest("a", **kw)
    b = env.plain("b", incoming="defer", **kw)
    a.wait_tick(10)
    b.wait_up()
    if theirs["channels"]:
        b.set("multifd", multifd_channels=theirs["channels"])
    g = to_qemu(env, a, b.listen(), "--channels", "2", "--idle-timeout", "5s",
                "--handover-timeout", "10s")
    assert g.wait() not in (OK, UNCERTAIN), g.stderr()
    assert "runs on here" in said(g), g.stderr()
    wait_until("the VM running", a.running)
    assert not b.running()
    a.wait_more_ticks(5)
    assert_one_story(a)


# --- from a plain QEMU -------------------------------------------------------

class Nursery:
    """One plain QEMU for each machine type boots a guest and saves it; all
    sources are loaded from that."""

    def __init__(self, env):
        self.env, self.count, self.saved = env, 0, {}

    def name(self):
        self.count += 1
        return f"n{self.count}"

    def source(self, machine):
        kw = dict(append=BUSY, machine=machine)
        if machine not in self.saved:
            g = self.env.plain(self.name(), **kw)
            g.wait_tick(20)
            g.ask("stop")
            path = os.path.join(self.env.dir, machine)
            g.migrate(f"exec:cat >{shlex.quote(path)}")
            g.kill()
            self.saved[machine] = (path, g)
        path, booted = self.saved[machine]
        g = self.env.plain(self.name(),
                           incoming=f"exec:cat {shlex.quote(path)}", **kw)
        g.wait_up()
        g.wait_loaded()
        g.ask("cont")
        g.wait_more_ticks(3)
        return booted, g


@pytest.fixture(scope="module")
def nursery(module_env):
    return Nursery(module_env)


FROM = [(c, z, m) for c in ("none", "zlib", "zstd")
        for z in ("none", "legacy", "multifd") for m in (NEW, OLD)]


@pytest.mark.soak
@pytest.mark.parametrize("compression, zero, machine", FROM)
def test_from_a_plain_qemu_with_multifd(nursery, compression, zero, machine):
    booted, a = nursery.source(machine)
    b = nursery.env.guest(nursery.name(), append=BUSY, machine=machine,
                          incoming=True)
    a.set("multifd", "return-path", multifd_channels=2,
          multifd_compression=compression, zero_page_detection=zero,
          max_bandwidth=80 << 20, downtime_limit=100)
    rx, at = nursery.env.receive(b, TCP, "--channels", "2")
    a.migrate(at, wait=False)
    assert rx.wait() == OK, rx.stderr()
    result = rx.result()
    assert result["status"] == "completed"
    assert result["ram"]["normal"] > 10000
    if zero != "none":  # then they come as pages
        assert result["ram"]["duplicate"] > 1000
    assert result["ram"]["multifd-bytes"] > 1 << 20
    assert a.status() == "postmigrate"
    looked_at(b)
    assert_one_story(booted, a, b)
    a.kill()
    b.kill()


@pytest.mark.parametrize("which, cut", [
    (0, 2000), (1, 20), *(pytest.param(*x, marks=pytest.mark.soak)
                          for x in ((0, 200), (1, 1 << 20), (2, 8 << 20)))])
def test_a_plain_qemu_loses_a_connection(nursery, which, cut):
    booted, a = nursery.source(NEW)
    b = nursery.env.guest(nursery.name(), append=BUSY, machine=NEW,
                          incoming=True)
    a.set("multifd", "return-path", multifd_channels=2,
          max_bandwidth=80 << 20)
    rx, at = nursery.env.receive(b, TCP, "--channels", "2")
    road = Road(at, which, cut=cut)
    try:
        a.migrate(road.uri, wait=False)
        assert rx.wait() not in (OK, UNCERTAIN), rx.stderr()
        assert road.happened
        wait_until("end of the migration", lambda: a.migration() == "failed")
        wait_until("the VM running", a.running)
        a.wait_more_ticks(5)
        assert_one_story(booted, a)
        assert b.status() == "inmigrate" and harness.ram_in_use(b) == 0
    finally:
        road.close()
    a.kill()
    b.kill()
