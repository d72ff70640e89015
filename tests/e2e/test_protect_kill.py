# SPDX-License-Identifier: BSD-3-Clause
"""A protected VM, and somebody dies, or the network is cut, at every point of
the protocol: never two running VMs, and the guest goes on from a complete
checkpoint, none before the acknowledged one.

What is expected is read from the tables of docs/internals/protect.md, so they
cannot say anything else than what happens. GODWIT_TEST_PAUSE stops a godwit
at the point (lib/base/pause.h); then it happens there.
"""
import contextlib
import os
import signal
import subprocess
import time

import pytest

import harness
from harness import OK, UNCERTAIN, is_paused, table, wait_until
from test_protect import (GUEST, TIMEOUT, Protected, Watch, assert_goes_on,
                          one_story)

TABLES = os.path.join(harness.TOP, "docs", "internals", "protect.md")
STATUS = {"runs": ["running"], "paused": ["paused", "postmigrate"],
          "waits": ["inmigrate"], "dead": ["dead"]}
VICTIMS = {"The primary's host dies": "host",
           "The primary's godwit dies": "primary",
           "The primary's QEMU dies": "qemu",
           "The standby's godwit dies": "standby",
           "Everything between them is cut": "network"}
# Only passed when somebody asked for it.
FAILOVER = ("source:committed", "source:go", "dest:go", "dest:running")
# Where all of the checkpoint has left the primary, which then waits.
SENT = ("source:checkpoint-sent", "source:checkpoint-acked")
# Not passed in the first checkpoint.
LATER = ("standby:applying", "standby:copied", "standby:done")


# --- the tables -----------------------------------------------------------

class Row:
    """What is to happen when @victim dies while the protection is at @at."""

    def __init__(self, victim, at, primary, standby, primary_exit,
                 standby_exit, have, then):
        self.victim, self.at = victim, at
        self.point, _, count = at.partition("@")
        self.number = int(count or 1) + (self.point in LATER)
        self.primary = [s for x in primary.split(" or ") for s in STATUS[x]]
        self.standby = [s for x in standby.split(" or ") for s in STATUS[x]]
        self.primary_exit = self.exits(primary_exit)
        self.standby_exit = self.exits(standby_exit)
        self.have = have.split(" or ")
        self.then = then.split(" or ")

    @staticmethod
    def exits(text):
        """None: it goes on listening."""
        special = {"killed": -signal.SIGKILL, "listens": None}
        return [special[x] if x in special else int(x)
                for x in text.split(" or ")]

    def __repr__(self):
        return f"{self.victim}@{self.at}"

    def checkpoints(self):
        """Which numbers may be the last complete one; None: the last one
        that was taken."""
        numbers = {"none": 0, "this": self.number, "before": self.number - 1,
                   "last": None}
        return [numbers[x] for x in self.have]


def read_rows():
    with open(TABLES) as f:
        text = f.read()
    return [Row(victim, at, *rest)
            for title, victim in VICTIMS.items()
            for points, *rest in table(text, title)
            for at in points.split(", ")]


ROWS = {repr(r): r for r in read_rows()}


# --- a guest and what happens to it ---------------------------------------

@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    yield from harness.stages(
        tmp_path_factory, "protect", lambda env, version: harness.Stage(
            env, version, "p", append=GUEST, memory=192))


class Scene(Protected):
    """A protection that stands at a point. The rest is up to the test."""

    def __init__(self, stage, row):
        self.stage, self.row = stage, row
        a, b = stage.board(), stage.fresh()
        self.cache = os.path.join(stage.env.dir, b.name + ".cache")
        short = ["--connect-timeout", "5s", "--handover-timeout", "5s"]
        super().__init__(stage.env, a, b, "--interval", "100ms", *short,
                         standby=["--cache", self.cache,
                                  "--connect-timeout", "5s"],
                         network=True, pause=row.at)
        self.watch = Watch(a, b)
        self.paused = self.primary if row.at.startswith("source:") else \
            self.standby
        if row.point in FAILOVER:
            self.wait(3)
            self.failover = stage.env.godwit("failover", b.name)
        wait_until(f"{row.at}\n", self.there)

    def there(self):
        assert self.paused.proc.poll() is None, self.words()
        if is_paused(self.paused):
            return True
        with contextlib.suppress(OSError, ValueError):
            self.sample(0.2)
        return False

    def words(self):
        return (f"{self.row}: primary: {self.a.status()}, exit "
                f"{self.primary.proc.poll()}: {self.primary.stderr()}\n"
                f"standby: {self.b.status()}, exit "
                f"{self.standby.proc.poll()}: {self.standby.stderr()}")

    def arrives(self):
        """What left the primary before it stopped is at the standby."""
        if self.row.point == "source:go":
            wait_until("end of the standby",
                       lambda: self.standby.proc.poll() is not None)
        elif self.row.point in SENT:
            wait_until("checkpoint at the standby",
                       lambda: self.checkpoint() == self.row.number, 30, 0.005)

    def strike(self):
        """The victim is gone, and the one that was stopped goes on."""
        self.arrives()
        for g in {"host": (self.primary, self.a), "primary": (self.primary,),
                  "qemu": (self.a,), "standby": (self.standby,),
                  "network": (self.network,)}[self.row.victim]:
            g.cut() if g is self.network else g.kill()
        if self.paused.proc.poll() is None:
            self.paused.kill(signal.SIGCONT)

    def settle(self):
        """Both godwits end, or one listens, and the VMs are as the row says.
        Their statuses."""
        row = self.row
        ends = [(self.primary, row.primary_exit),
                (self.standby, [x for x in row.standby_exit
                                if x is not None])]

        def as_said():
            return self.a.status() in row.primary and \
                self.b.status() in row.standby and \
                all(g.proc.poll() in codes for g, codes in ends if codes)
        with contextlib.suppress(AssertionError):
            if None not in row.standby_exit:
                wait_until("end state", as_said, 60)
            else:
                self.primary.wait(60)
        if None in row.standby_exit:
            time.sleep(TIMEOUT + 0.5)  # it would have taken over
        time.sleep(0.3)  # it stays so
        a, b = self.a.status(), self.b.status()
        assert a in row.primary and b in row.standby, self.words()
        assert self.primary.proc.poll() in row.primary_exit, self.words()
        assert self.standby.proc.poll() in row.standby_exit, self.words()
        return a, b

    def close(self):
        for g in self.primary, self.standby:
            g.kill()
            g.wait(60)
        self.network.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.cache)


# --- what there is afterwards ---------------------------------------------

def assert_said(s, a):
    """What the operator is told of a VM that stands at the primary."""
    if a not in STATUS["paused"]:
        return
    note = s.env.list()[s.a.name]["handover"]
    assert note and note["phase"] in ("fenced", "source"), (note, s.words())
    if s.primary.proc.poll() == UNCERTAIN:
        assert f"godwit resume {s.a.name}" in s.primary.stderr(), s.words()


def assert_from(s, done):
    """The guest goes on in s.b from checkpoint @done, one of the row's."""
    numbers = s.row.checkpoints()
    assert done in numbers or None in numbers, (done, s.words())
    if None in numbers:
        one_story(s.a, s.b)
    else:
        assert_goes_on(s.a, s.b, s.least(done))


def again(s):
    """A standby on the same file."""
    g = s.env.godwit("standby", "tcp:127.0.0.1:0", s.b.name, "--json",
                     "--cache", s.cache)
    s.standby = g
    wait_until("listening standby", s.listening)
    return s.checkpoint()


def failover(s):
    """By the standby that was started again, while the primary's is dead."""
    had = again(s)
    s.a.kill()
    f = s.env.godwit("failover", s.b.name)
    assert f.wait() == OK, f.stderr() + s.words()
    assert s.took_over()["colo"]["checkpoint"] == had
    assert_from(s, had)
    s.stage.arrived(s.b)


def resume(s):
    """At the primary. Whoever would have it from the cache has what the row
    says."""
    if s.row.victim == "standby":
        had = again(s)
        numbers = s.row.checkpoints()
        assert had in numbers or None in numbers, (had, s.words())
    s.standby.kill()  # it would replace its QEMU
    s.standby.wait(60)
    s.b.kill()
    g = s.env.godwit("resume", s.a.name, "--yes")
    assert g.wait(60) == OK, g.stdout() + g.stderr() + s.words()
    s.stage.stays()


def way_out(s, a, b, protect, decide):
    """What the table says is to be done makes one VM run."""
    if b == "running":
        assert "-" in s.row.then
        assert_from(s, s.standby.result()["colo"]["checkpoint"]
                    if s.standby.proc.poll() == OK else None)
        s.stage.arrived(s.b)
        return
    if s.standby.proc.poll() is None:
        assert 0 in s.row.checkpoints() and s.checkpoint() == 0
    if a == "running":
        assert "protect" in s.row.then
        s.stage.stays()
        if protect:
            protect_again(s)
    elif a == "dead":
        assert "restart" in s.row.then
    else:
        assert "resume" in s.row.then
        (failover if decide in s.row.then and decide == "failover"
         else resume)(s)


def protect_again(s):
    """It can be, by another, and then its host dies."""
    b = s.stage.fresh()
    p = Protected(s.env, s.stage.board(), b)
    p.wait(3)
    p.primary.kill()
    p.a.kill()
    done = p.took_over()["colo"]["checkpoint"]
    assert_goes_on(p.a, b, p.least(done))
    s.stage.arrived(b)


def play(stage, row, protect=False, decide="failover"):
    s = Scene(stage, row)
    try:
        s.strike()
        a, b = s.settle()
        s.watch.end()
        assert_said(s, a)
        way_out(s, a, b, protect, decide)
    finally:
        s.watch.quit.set()
        s.close()
    if not stage.whole or stage.at is not s.b:
        s.b.kill()


# --- the rows -------------------------------------------------------------

# For every `make check`; all of them are for `make soak`.
CHECKED = """
host@source:checkpoint-copied@5 host@source:checkpoint-sent
host@standby:applying@5 host@dest:running
primary@dest:bulk primary@source:checkpoint-stopped
primary@source:checkpoint-stopped@5 primary@source:checkpoint-sent@5
primary@standby:copied@5 primary@source:committed
qemu@source:checkpoint-copied@5 qemu@standby:done@5 qemu@source:go
standby@source:checkpoint-copied standby@standby:received@5
standby@standby:applying@5 standby@standby:copied@5
standby@source:checkpoint-acked@5 standby@source:committed standby@dest:go
network@source:pass network@source:checkpoint-sent@5
network@standby:received@5 network@source:committed network@dest:running
host@source:bulk
""".split()


@pytest.mark.parametrize("row", CHECKED)
def test_goes_on_from_a_whole_checkpoint(stages, row):
    play(stages("10.0"), ROWS[row])


@pytest.mark.soak
@pytest.mark.parametrize("version", ["7.2", "10.0", "11.1"])
@pytest.mark.parametrize("decide", ["failover", "resume"])
@pytest.mark.parametrize("row", ROWS)
def test_soak_every_row_and_the_way_out(stages, row, decide, version):
    if decide == "resume" and "resume" not in ROWS[row].then:
        pytest.skip("nothing to decide")
    play(stages(version), ROWS[row], protect=True, decide=decide)


@pytest.mark.parametrize("at", ["standby:done@0", "standby:done@",
                                "standby:done@5x", "@5"])
def test_a_point_comes_by_the_first_time_or_the_nth(at):
    g = subprocess.run([harness.GODWIT, "version"], capture_output=True,
                       text=True, timeout=60,
                       env=dict(os.environ, GODWIT_TEST_PAUSE=at))
    assert g.returncode == harness.USAGE and f"'{at}'" in g.stderr


def test_the_tables_have_every_point():
    """... that a protection passes, in each table, once."""
    with open(os.path.join(os.path.dirname(TABLES), "hand-over.md")) as f:
        points = [p.strip("`") for p, _ in table(f.read(),
                                                 "The points of a protection")]
    early = ["source:setup", "source:bulk", "source:pass", "dest:setup",
             "dest:bulk"]
    want = sorted(early + [p for p in points if p not in LATER] +
                  [p + "@5" for p in points] + [*FAILOVER])
    assert len(points) == 8
    for victim in VICTIMS.values():
        assert sorted(r.at for r in ROWS.values()
                      if r.victim == victim) == want
