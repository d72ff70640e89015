# SPDX-License-Identifier: BSD-3-Clause
"""Disks that the hosts do not share go along with the VM: `godwit migrate
--disks full|incremental`. The guest writes to its disk all the time and knows
what every block must hold (gw.disk), so a copy that is older or newer than its
memory is found; qemu-img compares the images besides.

What a failure leaves is read from the table "With disks" in
docs/internals/hand-over.md.
"""
import contextlib
import os
import re
import shutil
import signal
import socket
import threading

import pytest

import harness
from harness import (FAILED, OK, REFUSED, USAGE, assert_one_story, is_paused,
                     make_disk, pausing, qemu_img, wait_until)

TABLES = os.path.join(harness.TOP, "docs", "internals", "hand-over.md")
APPEND = "gw.tick=20 gw.dirty=16:2000 gw.disk={}"


def path(env, name):
    return os.path.join(env.dir, name)


def image(env, name, size="64M", fmt="qcow2", base=None):
    """A fresh image; its path."""
    at = path(env, name)
    backing = ["-b", base, "-F", "raw"] if base else []
    qemu_img("create", "-q", "-f", fmt, *backing, at, *([] if base else [size]))
    return at


def drive(file, fmt="qcow2", cache="none", node="d0", device="disk0"):
    if cache == "none" and not harness.takes_direct_io(file):
        cache = "writeback"
    return ["-drive", f"file={file},format={fmt},if=none,id={node},"
                      f"cache={cache},discard=unmap",
            "-device", f"virtio-blk-pci,drive={node},id={device}"]


def leftovers(guest):
    """What of a copy is still in its QEMU."""
    nodes = [n["node-name"] for n in guest.ask("query-named-block-nodes")]
    found = [n for n in nodes if n.startswith("godwit")]
    found += [j["id"] for j in guest.ask("query-jobs")]
    found += [e["id"] for e in guest.ask("query-block-exports")]
    folder = os.path.join(guest.env.rundir, guest.name)
    return found + [f for f in os.listdir(folder) if f.startswith("nbd")]


def assert_disk_grows(guest):
    """It writes and reads its disk, and all it reads is right."""
    before = guest.ticks()[-1]

    def later():
        t = guest.ticks()[-1]
        return t if t.direct > before.direct + 500 else None
    t = wait_until(f"use of the disk of {guest.name}", later, 120)
    assert t.bad == 0, [x for x in guest.lines() if x.startswith("BAD")][:5]


def moved(a, b, *options, rx_options=()):
    """A whole move; its result. The VM stays paused in b."""
    rx, at = a.env.receive(b, "tcp:127.0.0.1:0", "--paused", *rx_options)
    tx = a.env.migrate(a, at, "--verify", *options)
    assert tx.wait() == OK, tx.stderr() + rx.stderr()
    assert rx.wait() == OK, rx.stderr()
    assert a.status() == "postmigrate" and b.status() == "paused"
    assert leftovers(a) == leftovers(b) == []
    return tx.result()


def goes_on(a, b):
    b.ask("cont")
    b.wait_more_ticks(10)
    assert_disk_grows(b)
    assert_one_story(a, b)


# --- moves ----------------------------------------------------------------

@pytest.mark.parametrize("qemu", harness.each_version(), indirect=True)
@pytest.mark.parametrize("cache", ["none", "writeback"])
@pytest.mark.parametrize("how", ["full", "incremental"])
def test_a_disk_goes_along_while_the_guest_writes_to_it(env, qemu, how, cache):
    base = make_disk(path(env, "base.raw"), 64)
    far = path(env, "far.raw")
    shutil.copy(base, far)
    # full: the destination's image holds what nobody wants.
    images = [image(env, "a.qcow2", base=base),
              image(env, "b.qcow2", base=far) if how == "incremental" else
              shutil.copy(base, path(env, "b.raw"))]
    fmt = "qcow2" if how == "incremental" else "raw"
    a = env.guest("a", version=qemu, append=APPEND.format("16:400"),
                  extra=drive(images[0], cache=cache))
    b = env.guest("b", version=qemu, append=APPEND.format("16:400"),
                  incoming=True, extra=drive(images[1], fmt, cache))
    if how == "full":
        with open(images[1], "r+b") as f:
            f.write(b"\xff" * (1 << 20))
    a.wait_tick(20)
    result = moved(a, b, "--disks", how)
    disk = result["disk"]
    assert disk["remaining"] == 0 and disk["total"] >= 16 << 20
    # Incremental: what is in the backing file stays where it is.
    if how == "full":
        assert disk["transferred"] > 60 << 20
    else:
        assert 15 << 20 < disk["transferred"] < 40 << 20
    assert "Images are identical" in qemu_img(
        "compare", "-U", "-f", "qcow2", "-F", fmt, *images)
    goes_on(a, b)
    for g in a, b:
        g.kill()
    qemu_img("check", images[0])
    if fmt == "qcow2":
        qemu_img("check", images[1])


def test_several_disks_go_the_image_may_be_larger_and_read_only_ones_stay(
        env):
    cd = make_disk(path(env, "cd.raw"), 4)

    def command(side, size):
        blockdev = (f"driver=qcow2,node-name=n{side},file.driver=file,"
                    f"file.filename={image(env, side + '1.qcow2', size)}")
        return [*drive(image(env, side + "0.qcow2", size)),
                "-blockdev", blockdev, "-object", "iothread,id=io",
                "-device", f"virtio-blk-pci,drive=n{side},id=second,"
                           "iothread=io",
                "-drive", f"file={cd},format=raw,if=none,id=cd,readonly=on",
                "-device", "virtio-blk-pci,drive=cd"]
    a = env.guest("a", append=APPEND.format("16:400"),
                  extra=command("a", "32M"))
    b = env.guest("b", append=APPEND.format("16:400"), incoming=True,
                  extra=command("b", "48M"))
    a.wait_tick(20)
    moved(a, b, "--disks", "full", "--channels", "2")
    for n in "01":
        out = qemu_img("compare", "-U", path(env, f"a{n}.qcow2"),
                       path(env, f"b{n}.qcow2"))
        assert "Images are identical" in out, out
    goes_on(a, b)


def test_a_guest_that_writes_faster_than_the_connection_is_held_back(env):
    """Its writes wait for the destination, so the copy catches up."""
    a = env.guest("a", append=APPEND.format("16:0"), memory=128,
                  extra=drive(image(env, "a.qcow2"), cache="unsafe"))
    b = env.guest("b", append=APPEND.format("16:0"), incoming=True, memory=128,
                  extra=drive(image(env, "b.qcow2")))
    a.wait_tick(20)
    result = moved(a, b, "--disks", "full", "--max-bandwidth", "8M",
                   "--downtime-limit", "60s")
    assert result["disk"]["transferred"] >= 16 << 20
    assert "Images are identical" in qemu_img(
        "compare", "-U", path(env, "a.qcow2"), path(env, "b.qcow2"))
    goes_on(a, b)


def test_max_bandwidth_is_for_disks_too(env):
    a = env.guest("a", append=APPEND.format("32:20"),
                  extra=drive(image(env, "a.qcow2")))
    b = env.guest("b", append=APPEND.format("32:20"), incoming=True,
                  extra=drive(image(env, "b.qcow2")))
    a.wait_tick(20)
    result = moved(a, b, "--disks", "full", "--max-bandwidth", "20M",
                   "--downtime-limit", "10s")
    sent = result["disk"]["transferred"] + result["ram"]["transferred"] - \
        result.get("downtime-bytes", 0)
    # The last pass is not limited: at most what a downtime of 10 s allows.
    assert result["disk"]["transferred"] >= 32 << 20
    assert result["total-time"] > 1000 * (32 << 20) / (20 << 20) * 0.8, sent
    goes_on(a, b)


def test_a_vm_without_disks_moves_with_a_warning(env):
    a, b = env.guest("a"), env.guest("b", incoming=True)
    a.wait_tick(5)
    rx, at = env.receive(b)
    tx = env.migrate(a, at, "--disks", "full")
    assert tx.wait() == OK, tx.stderr()
    assert rx.wait() == OK, rx.stderr()
    assert "has no disk that it can write to" in tx.stderr()
    b.wait_more_ticks(5)


# --- refusals -------------------------------------------------------------

@pytest.mark.parametrize("to, options, why", [
    ("exec:cat", (), "one connection, more are needed"),
    ("tcp:127.0.0.1:1", ("--to-qemu",), "exclude each other"),
    ("tcp:127.0.0.1:1", ("--native",), "exclude each other")])
def test_where_no_godwit_takes_the_disks_in_they_are_refused(
        module_env, to, options, why):
    env = module_env
    if "r" not in {g for g in env.list()}:
        env.r = env.guest("r", extra=drive(image(env, "r.qcow2")))
        env.r.wait_up()
    tx = env.migrate(env.r, to, "--disks", "full", *options)
    assert tx.wait() == USAGE, tx.stderr()
    assert why in tx.stderr()
    assert leftovers(env.r) == []


def test_a_destination_that_cannot_take_the_disks_says_which_and_why(env):
    base = make_disk(path(env, "base.raw"), 32)
    a = env.guest("a", append=APPEND.format("16:400"),
                  extra=drive(image(env, "a.qcow2", base=base)))
    a.wait_tick(10)
    larger = image(env, "whole.qcow2", "64M")
    for name, extra, how, why in [
            ("named", drive(larger, node="other"), "full",
             "disk 'd0' is not here, those that can be written here: other"),
            ("small", drive(image(env, "small.qcow2", "16M")), "full",
             "make its image at least as large"),
            ("flat", drive(larger), "incremental", "has no backing file"),
            ("busy", drive(larger), "full", "nbd-server-stop")]:
        b = env.guest(name, append=APPEND.format("16:400"), incoming=True,
                      extra=extra)
        b.wait_up()
        if name == "busy":
            b.ask("nbd-server-start", addr={
                "type": "unix", "data": {"path": path(env, "mine")}})
        rx, at = env.receive(b)
        tx = env.migrate(a, at, "--disks", how)
        assert tx.wait() in (REFUSED, FAILED), tx.stderr()
        assert rx.wait() in (REFUSED, FAILED), rx.stderr()
        assert why in tx.stderr() and why in rx.stderr(), \
            tx.stderr() + rx.stderr()
        assert a.running() and b.status() == "inmigrate"
        assert leftovers(a) == leftovers(b) == []
        b.kill()
    assert_disk_grows(a)
    a.assert_healthy()


# --- failures -------------------------------------------------------------

class Relay:
    """TCP, any number of connections, all of which can be reset."""

    def __init__(self, port):
        self.port, self.pairs, self.lock = port, [], threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"tcp:127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.port))
                with self.lock:
                    self.pairs.append((near, far))
                for way in (near, far), (far, near):
                    threading.Thread(target=self.pump, args=way,
                                     daemon=True).start()

    @staticmethod
    def pump(src, dst):
        try:
            while data := src.recv(1 << 17):
                dst.sendall(data)
            dst.shutdown(socket.SHUT_WR)
        except OSError:  # one end was reset: so is the other
            for s in src, dst:
                with contextlib.suppress(OSError):
                    s.shutdown(socket.SHUT_RDWR)

    def cut(self, which=None):
        """All connections, or one by its number in order of arrival."""
        with self.lock:
            for n, pair in enumerate(self.pairs):
                if which in (None, n):
                    for s in pair:
                        with contextlib.suppress(OSError):
                            s.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.listener.close()
        self.cut()


STATUS = {"runs": "running", "waits": "inmigrate", "dead": "dead"}


def rows():
    with open(TABLES) as f:
        part = re.search(r"^## With disks$(.*?)(?=^#|\Z)", f.read(),
                         re.M | re.S)[1]
    table = [[c.strip() for c in x.strip().strip("|").split("|")]
             for x in part.splitlines() if x.startswith("|")][2:]
    return [(what, at, *rest) for what, points, *rest in table
            for at in points.split(", ")]


@pytest.fixture(scope="module")
def board(module_env):
    """A guest with a disk that survives row after row."""
    env = module_env
    env.board = env.guest("board", append=APPEND.format("16:300"),
                          extra=drive(image(env, "board.qcow2")))
    env.board.wait_tick(10)
    env.count = 100
    return env.board


def begin(env, a, at, *options):
    """A move with disks that has got to @at; everything of it."""
    env.count += 1
    name = f"x{env.count}"
    b = env.guest(name, append=APPEND.format("16:300"), incoming=True,
                  extra=drive(image(env, name + ".qcow2")))
    side = at.split(":")[0]
    with pausing(env, at if side == "dest" else None):
        rx, uri = env.receive(b)
    relay = Relay(int(uri.rsplit(":", 1)[1]))
    with pausing(env, at if side == "source" else None):
        tx = env.migrate(a, relay.uri, "--disks", "full", *options)
    g = tx if side == "source" else rx

    def there():
        assert g.proc.poll() is None, tx.stderr() + rx.stderr()
        return is_paused(g)
    wait_until(f"pause at {at}", there)
    return b, rx, tx, relay, g


def happen(what, b, rx, tx, relay):
    if what == "Ctrl-C":
        tx.kill(signal.SIGINT)
    elif what == "the source's godwit is killed":
        tx.kill()
    elif what == "the destination's godwit is killed":
        rx.kill()
    elif what == "the destination's QEMU is killed":
        b.kill()
    elif what == "the connections are cut":
        relay.cut()
    else:
        assert what == "a disk's connection is cut"
        relay.cut(1)


ROWS = {f"{r[0]}@{r[1]}".replace(" ", "-"): r for r in rows()}


@pytest.mark.parametrize("row", list(ROWS))
def test_a_move_with_disks_that_fails_leaves_the_vm_and_nothing_else(
        module_env, board, row):
    what, at, source, dest, source_exit, dest_exit = ROWS[row]
    env, a = module_env, board
    b, rx, tx, relay, g = begin(env, a, at)
    try:
        happen(what, b, rx, tx, relay)
        if g.proc.poll() is None:
            os.kill(g.pid, signal.SIGCONT)

        def exits(g, wanted):
            code = g.wait(120)
            assert code in [-9 if x == "killed" else int(x)
                            for x in wanted.split(" or ")], \
                tx.stderr() + rx.stderr()
        exits(tx, source_exit)
        exits(rx, dest_exit)
        wait_until("the VM as the table says",
                   lambda: a.status() == STATUS[source] and
                   b.status() == STATUS[dest], 60)
        assert_disk_grows(a)
        assert_one_story(a)
        if source_exit != "killed":
            assert leftovers(a) == []
        if dest == "waits" and dest_exit != "killed":
            assert leftovers(b) == []
            assert "what its disks hold here is worth nothing" in rx.stderr()
        # Again, to the same one if it still waits; what a godwit that was
        # killed left is no hindrance.
        if "killed" in (source_exit, dest_exit) and dest == "waits":
            rx, uri = env.receive(b, "tcp:127.0.0.1:0", "--paused")
            tx = env.migrate(a, uri, "--disks", "full")
            assert tx.wait() == OK, tx.stderr() + rx.stderr()
            assert rx.wait() == OK
            assert leftovers(a) == leftovers(b) == []
            out = qemu_img("compare", "-U", path(env, "board.qcow2"),
                           path(env, b.name + ".qcow2"))
            assert "Images are identical" in out, out
            # The source goes on, as nobody ran the copy.
            b.kill()
            back = env.godwit("resume", a.name, "--yes")
            assert back.wait(60) == OK, back.stderr()
            assert_disk_grows(a)
    finally:
        relay.close()
        b.kill()


def test_a_destination_that_falls_silent_is_given_up(module_env, board):
    b, rx, tx, relay, _ = begin(module_env, board, "source:disks",
                                "--idle-timeout", "2s")
    try:
        rx.kill(signal.SIGSTOP)
        tx.kill(signal.SIGCONT)
        assert tx.wait(120) == FAILED, tx.stderr()
        assert "no byte" in tx.stderr()
        assert board.running() and leftovers(board) == []
        assert_disk_grows(board)
    finally:
        rx.kill(signal.SIGCONT)
        relay.close()
        b.kill()
