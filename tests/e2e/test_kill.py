# SPDX-License-Identifier: BSD-3-Clause
"""Kill either godwit or either QEMU, or cut the connection, at every point of
a move: never two running VMs, and one runs unless GO was said or the source's
QEMU itself died.

What is expected is read from the tables of docs/internals/hand-over.md, so
they cannot say anything else than what happens. GODWIT_TEST_PAUSE stops a
godwit at the point (lib/base/pause.h); then it happens there.
"""
import contextlib
import os
import select
import signal
import socket
import struct
import subprocess
import threading
import time

import pytest

import harness
from harness import (OK, SMALL_PAGES, assert_one_story, guardians, has_ended,
                     is_paused, pausing, table, wait_until)

TABLES = os.path.join(harness.TOP, "docs", "internals", "hand-over.md")
STATUS = {"runs": "running", "waits": "inmigrate", "paused": "paused",
          "stands": "postmigrate", "dead": "dead"}
VICTIMS = {"The source's godwit is killed": "source-godwit",
           "The destination's godwit is killed": "dest-godwit",
           "The source's QEMU is killed": "source-qemu",
           "The destination's QEMU is killed": "dest-qemu",
           "The connection is cut": "connection",
           "Bytes vanish": "bytes"}


# --- the tables -----------------------------------------------------------

class Row:
    """What is to happen when @victim dies while the move is at @at."""

    def __init__(self, victim, at, source, dest, source_exit, dest_exit, then):
        self.victim, self.at, self.then = victim, at, then
        self.source = [STATUS[x] for x in source.split(" or ")]
        self.dest = [STATUS[x] for x in dest.split(" or ")]
        self.source_exit = self.exits(source_exit)
        self.dest_exit = self.exits(dest_exit)

    @staticmethod
    def exits(text):
        return [-signal.SIGKILL if x == "killed" else int(x)
                for x in text.split(" or ")]

    def __repr__(self):
        return f"{self.victim}@{self.at.replace(' ', '-')}"


def read_rows():
    with open(TABLES) as f:
        text = f.read()
    return [Row(victim, at, *rest)
            for title, victim in VICTIMS.items()
            for points, *rest in table(text, title)
            for at in points.split(", ")]


def read_sayings():
    with open(TABLES) as f:
        return [(who, int(code), [STATUS[x] for x in vm.split(", ")], text)
                for who, code, vm, text in table(f.read(), "What they say")]


ROWS = {repr(r): r for r in read_rows()}
SAYINGS = read_sayings()


# --- a connection that can be cut -----------------------------------------

class Relay:
    """TCP, one connection. It can reset both ends, or swallow a direction."""

    def __init__(self, port, swallow=()):
        self.swallow = set(swallow)  # "back", "forth"
        self.moved = 0
        self.port = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"tcp:127.0.0.1:{self.listener.getsockname()[1]}"
        self.wake = socket.socketpair()
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        near = far = None
        try:
            if self.listener not in select.select(
                    [self.listener, self.wake[1]], [], [])[0]:
                return
            near, _ = self.listener.accept()
            far = socket.create_connection(("127.0.0.1", self.port))
            self.pump(near, far)
        except OSError:
            pass  # one end was reset: so is the other
        finally:
            for s in (near, far):
                if s:
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                 struct.pack("ii", 1, 0))
                    s.close()

    def pump(self, near, far):
        """Until both directions have ended. wake: reset."""
        ways = [["forth", near, far, b"", False], ["back", far, near, b"",
                                                   False]]
        for s in (near, far):
            s.setblocking(False)
        while not all(ended and not data for _, _, _, data, ended in ways):
            rd, wr, _ = select.select(
                [self.wake[1]] + [w[1] for w in ways if not w[3] and not w[4]],
                [w[2] for w in ways if w[3]], [])
            if self.wake[1] in rd:
                return
            for w in ways:
                way, src, dst, data, _ = w
                if src in rd and not data:
                    data = src.recv(1 << 18)
                    self.moved += len(data)
                    w[4] = not data
                    if way in self.swallow:
                        data = b""
                    elif not data:
                        dst.shutdown(socket.SHUT_WR)
                if data and (dst in wr or src in rd):
                    with contextlib.suppress(BlockingIOError):
                        data = data[dst.send(data):]
                w[3] = data

    def quiet(self):
        """Until nothing has come for a while: all that was sent is there."""
        def still():
            before = self.moved
            time.sleep(0.3)
            return self.moved == before
        wait_until("quiet connection", still)

    def cut(self):
        self.wake[0].send(b"x")
        self.thread.join(30)

    def close(self):
        self.cut()
        for s in (self.listener, *self.wake):
            s.close()


# --- a guest and what happens to it ---------------------------------------

class Stage(harness.Stage):
    def __init__(self, env, version, **kw):
        super().__init__(env, version, "k", **kw)

    def arrived(self, dest):
        dest.wait_more_ticks(5)
        assert_one_story(self.at, dest)
        super().arrived(dest)


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    yield from harness.stages(tmp_path_factory, "kill", Stage)


class Move:
    """A move that stops at a point. The rest is up to the test."""

    def __init__(self, stage, at, options=(), rx_options=(), swallow=(),
                 before=lambda m: None):
        self.stage, env = stage, stage.env
        self.a, self.b = stage.board(), stage.fresh()
        self.b.wait_up()
        before(self)
        self.settings = self.read_settings()
        if "x-ignore-shared" in self.settings[2]:
            # Left by a receive that was killed: QEMU's own are to be back.
            self.settings = self.read_settings(self.b)
        side, _, point = (at or "").partition(":")
        # So that GO has been said for certain.
        late = side == "dest" and point in ("ready", "go", "running")
        with pausing(env, at if side == "dest" else None):
            self.rx, uri = env.receive(self.b, "tcp:127.0.0.1:0",
                                       "--handover-timeout", "60s",
                                       *rx_options)
        self.relay = Relay(int(uri.rsplit(":", 1)[1]), swallow)
        with pausing(env, at if side == "source" else
                     "source:go" if late else None):
            self.tx = env.migrate(self.a, self.relay.uri,
                                  "--handover-timeout", "60s", *options)
        self.paused = [g for g, is_there in
                       [(self.tx, side == "source" or late),
                        (self.rx, side == "dest")] if is_there]
        for g in self.paused:
            self.wait_paused(g)
        if at:
            self.relay.quiet()

    def wait_paused(self, g):
        def there():
            assert g.proc.poll() is None, self.words()
            return is_paused(g)
        wait_until("paused godwit", there)

    def read_settings(self, guest=None):
        guest = guest or self.a
        p = guest.ask("query-migrate-parameters")
        return (p["max-bandwidth"], p["downtime-limit"],
                [c["capability"]
                 for c in guest.ask("query-migrate-capabilities")
                 if c["state"]])

    def words(self):
        return (f"source: {self.a.status()}, exit {self.tx.proc.poll()}: "
                f"{self.tx.stderr()}\ndestination: {self.b.status()}, exit "
                f"{self.rx.proc.poll()}: {self.rx.stderr()}")

    def kill(self, victim):
        """@victim is gone, and those who are left could know it."""
        godwits = {"source-godwit": self.tx, "dest-godwit": self.rx}
        if victim in godwits:
            godwits[victim].kill()
            godwits[victim].wait(60)
            self.relay.quiet()
        else:
            {"source-qemu": self.a.kill, "dest-qemu": self.b.kill,
             "connection": self.relay.cut}[victim]()

    def go_on(self):
        for g in self.paused:
            if g.proc.poll() is None:
                os.kill(g.pid, signal.SIGCONT)

    def statuses(self):
        """Of both VMs; never two running."""
        a, b = self.a.status(), self.b.status()
        if a == b == "running":
            # Not at the same moment: it must have been handed over.
            assert self.a.status() != "running", "TWO RUN\n" + self.words()
        return a, b

    def settle(self, row):
        """Both godwits end, then the VMs are as @row says."""
        def ended():
            self.statuses()
            return all(g.proc.poll() is not None for g in (self.tx, self.rx))
        wait_until("end of both godwits", ended, 120)

        def as_said():
            a, b = self.statuses()
            return a in row.source and b in row.dest
        try:
            wait_until("end state", as_said, 30)
        except AssertionError:
            raise AssertionError(f"{row}: not as the table says\n" +
                                 self.words()) from None
        assert self.tx.proc.poll() in row.source_exit, self.words()
        assert self.rx.proc.poll() in row.dest_exit, self.words()
        # It stays so.
        time.sleep(0.3)
        a, b = self.statuses()
        assert a in row.source and b in row.dest, self.words()
        for who, g, status in (("source", self.tx, a),
                               ("destination", self.rx, b)):
            for at, code, vm, text in SAYINGS:
                if (who, g.proc.poll()) == (at, code) and status in vm:
                    assert text in g.stderr(), self.words()
        return a, b

    def resume(self, guest):
        g = self.stage.env.godwit("resume", guest.name, "--yes")
        assert g.wait(60) == OK, g.stdout() + g.stderr() + self.words()

    def close(self):
        self.go_on()
        self.relay.close()


def way_out(m, row, again):
    """What the table says the operator does makes one VM run."""
    stage = m.stage
    if m.a.running():
        stage.stays()
        assert m.read_settings() == m.settings
        if again:
            dest = m.b if m.b.status() == "inmigrate" else stage.fresh()
            stage.env.move(stage.at, dest)
            stage.arrived(dest)
            if dest is m.b:
                return
    elif m.b.running():
        stage.arrived(m.b)
        return
    elif row.then == "resume destination":
        m.resume(m.b)
        stage.arrived(m.b)
        return
    elif row.then in ("resume source", "disks"):
        m.resume(m.a)
        stage.stays()
        assert m.read_settings() == m.settings
    else:
        assert row.then in ("restart", "-") and m.a.status() == "dead"
    m.b.kill()


def play(stage, row, again=False):
    if row.victim == "bytes":
        m = vanish(stage, row)
    else:
        m = Move(stage, row.at)
        m.kill(row.victim)
        m.go_on()
    try:
        m.settle(row)
        way_out(m, row, again)
    finally:
        m.close()


def vanish(stage, row):
    way, at = row.at.split(" from ")
    ways = ["back", "forth"] if way == "both" else [way]
    short = ["--handover-timeout", "2s", "--connect-timeout", "2s"]
    idle = ["--idle-timeout", "5s"]
    if at == "the start":
        return Move(stage, None, short, idle, swallow=ways)
    # RUNNING is what is lost: READY has come, the destination has not read GO.
    m = Move(stage, "dest:ready" if at == "source:go" else at, short, idle)
    m.relay.swallow.update(ways)
    m.go_on()
    return m


# --- the rows -------------------------------------------------------------

# For every `make check`; all of them are for `make soak`.
CHECKED = """
source-godwit@source:bulk source-godwit@source:saving
source-godwit@source:stopped source-godwit@source:device
source-godwit@source:ready source-godwit@source:committed
source-godwit@source:go source-godwit@dest:loaded source-godwit@dest:go
dest-godwit@source:bulk dest-godwit@source:device dest-godwit@source:ready
dest-godwit@source:committed dest-godwit@dest:loaded dest-godwit@dest:ready
dest-godwit@dest:go dest-godwit@dest:running
source-qemu@source:device source-qemu@source:committed source-qemu@dest:go
dest-qemu@source:stopped dest-qemu@source:ready dest-qemu@dest:go
dest-qemu@dest:running
connection@source:bulk connection@source:ready connection@source:committed
connection@dest:loaded connection@dest:go
bytes@back-from-source:device bytes@back-from-source:go
bytes@forth-from-source:committed
source-qemu@source:stopped
""".split()


@pytest.mark.parametrize("row", CHECKED)
def test_one_runs_or_somebody_says_which(stages, row):
    play(stages("10.0"), ROWS[row], again=row.endswith(("bulk", "stopped")))


@pytest.mark.soak
@pytest.mark.parametrize("version", ["7.2", "10.0", "11.1"])
@pytest.mark.parametrize("row", ROWS)
def test_soak_every_row_and_the_way_out(stages, version, row):
    play(stages(version), ROWS[row], again=True)


def test_the_tables_have_every_point():
    with open(TABLES) as f:
        text = f.read()
    points = {p.strip("`"): what for p, what in table(text, "The points")}
    others = [p.strip("`") for p, _ in table(text,
                                             "The points of a protection")]
    assert len(points) == 19
    # those of disks have a table of their own, in test_disks.py
    always = [p for p, what in points.items() if "--disks" not in what]
    assert len(always) == 16
    for victim in list(VICTIMS.values())[:-1]:
        assert [r.at for r in ROWS.values() if r.victim == victim] == always
    # ... and the program has the same.
    g = subprocess.run([harness.GODWIT, "version"], capture_output=True,
                       text=True, timeout=60,
                       env=dict(os.environ, GODWIT_TEST_PAUSE="nowhere"))
    assert g.returncode == harness.USAGE
    assert set(g.stderr.split("there are ")[1].strip().split(", ")) == \
        {*points, *others}


# --- what no row says -----------------------------------------------------

@pytest.mark.parametrize("point, status", [
    ("source:stopped", "finish-migrate"), ("source:committed", "postmigrate")])
def test_resume_does_what_a_killed_guardian_would_have_done(stages, point,
                                                            status):
    stage = stages("10.0")
    m = Move(stage, point)
    try:
        guardian, = guardians(stage.env)
        os.kill(guardian, signal.SIGKILL)
        wait_until("end of the guardian", lambda: has_ended(guardian))
        m.tx.kill()
        m.rx.wait(60)
        time.sleep(0.5)
        assert m.statuses()[0] == status
        m.resume(m.a)
        stage.stays()
        assert m.read_settings() == m.settings
        m.b.kill()
    finally:
        m.close()


def test_a_guardian_ends_with_its_move_and_leaves_a_paused_vm_paused(stages):
    stage = stages("10.0")
    stage.board().ask("stop")
    stage.whole = True
    m = Move(stage, "source:stopped")
    try:
        assert len(guardians(stage.env)) == 1
        m.tx.kill()
        wait_until("end of the guardian",
                   lambda: not guardians(stage.env))
        assert m.a.status() == "paused"
        note = stage.env.list()[m.a.name]["handover"]
        assert note["phase"] == "kept" and "rests as before" in note["text"]
        assert m.rx.wait(60) == 1
        m.a.ask("cont")
        stage.stays()
        stage.board()
        stage.env.move(m.a, m.b)
        assert not guardians(stage.env)
        stage.arrived(m.b)
    finally:
        m.close()


@pytest.mark.parametrize("point", ["bulk", "pass", "stopped"])
def test_a_guest_with_synchronous_tracking_goes_on(stages, point):
    """It waits for a handler at every first write; with the godwit that
    handler is gone, and the agent in QEMU ends the waiting."""
    stage = stages("10.0", run_options=SMALL_PAGES)
    m = Move(stage, "source:" + point, ["--tracker", "uffd-wp"])
    try:
        m.tx.kill()
        m.settle(ROWS[f"source-godwit@source:{point}"])
        stage.stays()
        stage.board()
        # Both trackers work again.
        for tracker in ("uffd-wp", "pagemap-scan"):
            dest = m.b if m.b.status() == "inmigrate" else stage.fresh()
            stage.env.move(stage.at, dest, "--tracker", tracker)
            stage.arrived(dest)
            stage.board()
        stage.whole = True
    finally:
        m.close()


def test_resume_refuses_a_destination_that_gave_its_memory_back(stages):
    stage = stages("10.0")
    row = ROWS["bytes@back-from-source:device"]
    m = vanish(stage, row)
    try:
        m.settle(row)
        g = stage.env.godwit("resume", m.b.name, "--yes")
        assert g.wait(60) == 1
        assert "the VM is at the source" in g.stdout()
        assert "there is no VM in" in g.stderr()
        assert m.b.status() == "paused"
        stage.stays()
        m.b.kill()
    finally:
        m.close()


def test_settings_that_a_killed_receive_left_go_with_the_next_move(stages):
    stage = stages("10.0")
    play(stage, ROWS["dest-godwit@dest:running"])
    m = Move(stage, "source:device")
    try:
        assert "x-ignore-shared" not in m.settings[2]
        m.tx.kill(signal.SIGTERM)
        m.go_on()
        assert m.tx.wait(60) == harness.CANCELLED, m.words()
        stage.stays()
        assert m.read_settings() == m.settings
        m.b.kill()
    finally:
        m.close()


@pytest.mark.parametrize("victim", ["source-godwit", "nobody"])
def test_a_destination_told_to_run_too_early_does_not(stages, victim):
    """`cont` to a QEMU that waits makes it run what it loads, at once."""
    stage = stages("10.0")
    m = Move(stage, "source:ready", before=lambda m: m.b.ask("cont"))
    try:
        assert m.b.status() == "paused"
        if victim == "nobody":
            m.go_on()
            assert m.tx.wait(60) == OK and m.rx.wait(60) == OK, m.words()
            stage.arrived(m.b)
        else:
            m.kill(victim)
            m.settle(ROWS["source-godwit@source:ready"])
            stage.stays()
            m.b.kill()
    finally:
        m.close()


def test_cancelled_while_the_vm_stands(stages):
    """SIGTERM to the source until GO: the VM runs on, exit 7."""
    stage = stages("10.0")
    for point in ("stopped", "device", "ready", "committed"):
        m = Move(stage, "source:" + point)
        try:
            m.tx.kill(signal.SIGTERM)
            m.go_on()
            assert m.tx.wait(60) == harness.CANCELLED, m.words()
            assert m.rx.wait(60) == harness.CANCELLED, m.words()
            assert "the VM runs on here" in m.tx.stderr()
            assert m.a.running() and not m.b.running()
            stage.stays()
            m.b.kill()
        finally:
            m.close()
