# SPDX-License-Identifier: BSD-3-Clause
"""Checkpoints of a real Linux guest through the driver's own calls
(checkpoint_probe.c): each is whole, the guest goes on from the last one in
another QEMU, and nobody runs it here any more when the probe dies or its lease
runs out."""
import json
import os
import select
import signal
import socket
import struct
import subprocess
import time

import pytest

import harness
from harness import (TICK, Tick, assert_one_story, guardians, has_ended,
                     wait_until)

PROBE = os.path.join(harness.BUILD, "tests", "checkpoint_probe")
EPERM = -1


class Probe:
    """A running checkpoint_probe."""

    def __init__(self, env, guest):
        self.env = env
        self.proc = subprocess.Popen(
            [PROBE, guest.name], env=env.environ, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=open(os.path.join(env.dir, guest.name + ".probe"), "w"),
            start_new_session=True)
        env.procs.append(self.proc)

    def __call__(self, line, r=0, timeout=120):
        """Its answer to @line, whose result must be @r."""
        self.proc.stdin.write(line + "\n")
        self.proc.stdin.flush()
        assert select.select([self.proc.stdout], [], [], timeout)[0], line
        answer = self.proc.stdout.readline()
        assert answer, f"the probe ended at '{line}'"
        got = json.loads(answer)
        assert got["r"] == r, (line, got)
        return got

    def kill(self):
        self.proc.kill()
        self.proc.wait()


@pytest.fixture(params=["7.2", "10.0"])
def version(request):
    if not harness.qemu_path(request.param):
        pytest.skip(f"no QEMU {request.param}")
    return request.param


def pair(env, version, **kw):
    a = env.guest("a", version=version, **kw)
    b = env.guest("b", version=version, incoming=True, **kw)
    a.wait_tick(10)
    b.wait_up()
    return a, b


def ticks_of(guest):
    """What it wrote, but for lines that a torn beginning or end makes odd."""
    return [Tick(m) for m in map(TICK.match, guest.lines()) if m]


def assert_goes_on(a, b, before):
    """@b goes on from a moment of @a at or after tick @before."""
    b.wait_more_ticks(20)
    t = b.assert_healthy()
    assert before - 1 <= t[0].n <= a.ticks()[-1].n + 2, (before, t[0])
    assert t[0].sum == a.ticks()[-1].sum


KINDS = {
    "small": ((), True),
    "vga": (("-device", "VGA"), False),
    "disk": (None, True),
}


@pytest.mark.parametrize("kind", KINDS)
def test_goes_on_from_the_last_checkpoint(env, version, kind, tmp_path):
    extra, small = KINDS[kind]
    append = "gw.tick=20 gw.dirty=16:5000"
    if kind == "disk":
        disk = harness.make_disk(tmp_path / "disk", 32)
        append += " gw.direct=64:2"
        extra = ("-drive", f"file={disk},if=virtio,format=raw,"
                 "readonly=on,file.locking=off")
    a, b = pair(env, version, extra=extra, append=append)
    probe = Probe(env, a)
    probe("begin")
    first = probe("take 1 0")
    many = probe("take 200 5", timeout=300)
    print(f"{kind} {version}: pause median {many['median_us']} us, "
          f"p95 {many['p95_us']}, max {many['max_us']} (steps "
          f"{many['worst_us']}); base {many['base']}, "
          f"part {many['part']} bytes; the first {first['max_us']} us")
    assert (many["base"] > 0) == small
    if small:
        assert many["generations"] == 1 and many["part"] < 200000
    before = a.wait_more_ticks(10).n
    probe("take 1 0")
    a.wait_more_ticks(10)
    a.assert_healthy()
    # The primary is gone; the other goes on.
    a.kill()
    got = probe("load b")
    assert got["loaded"]
    assert_goes_on(a, b, before)


def test_a_guest_that_boots_again(env, version):
    """The firmware's tables are written anew: what is loaded has them, and
    the guest boots on."""
    a, b = pair(env, version)
    probe = Probe(env, a)
    probe("begin")
    assert probe("take 5 20")["generations"] == 1
    a.ask("set-action", reboot="reset")
    a.ask("system_reset")
    time.sleep(1)
    probe("take 20 50", timeout=300)
    a.kill()
    probe("load b")
    b.wait_tick(20)
    b.assert_healthy()
    b.ask("set-action", reboot="reset")
    b.ask("system_reset")
    seen = len(b.ticks())
    wait_until("ticks after another boot",
               lambda: len(b.ticks()) > seen + 20 and
               b.ticks()[-1].n < seen + 20, harness.BOOT_S)


@pytest.mark.parametrize("extra", [(), ("-device", "VGA")],
                         ids=["small", "vga"])
def test_a_vm_that_its_user_paused_stays_paused(env, version, extra):
    a, b = pair(env, version, extra=extra)
    probe = Probe(env, a)
    probe("begin")
    probe("take 2 1")
    a.ask("stop")
    # After a whole stream 7.2 says of a VM that rested that it was moved.
    resting = ("paused", "postmigrate") if version == "7.2" else ("paused",)
    probe("take 3 20")
    assert a.status() in resting
    a.ask("cont")
    a.wait_more_ticks(5)
    probe("take 1 1")
    a.ask("stop")
    before = a.ticks()[-1].n
    probe("take 3 1")
    probe("end run")
    assert a.status() in resting
    a.ask("cont")
    a.wait_more_ticks(5)
    assert_one_story(a)
    a.kill()
    probe("load b")
    assert_goes_on(a, b, before)


def test_ends_as_it_began(env, version):
    a = env.guest("a", version=version)
    a.wait_tick(10)
    was = a.ask("query-migrate-capabilities")
    parameters = a.ask("query-migrate-parameters")
    probe = Probe(env, a)
    for _ in range(2):
        probe("begin hold")
        probe("take 3 1")
        probe("stop")
        probe("end run")
        assert a.running()
        assert a.ask("query-migrate-capabilities") == was
        assert a.ask("query-migrate-parameters") == parameters
        assert a.ask("query-fdsets") == []
        assert not [x for x in a.ask("qom-list", path="/objects")
                    if "godwit" in x["name"]]
        assert a.env.list()["a"]["handover"] is None
        probe("end run")
    a.wait_more_ticks(10)
    assert_one_story(a)


def note(env, name):
    return env.list()[name]["handover"]


def stopped_at(guest, since, timeout=20):
    """Seconds after @since at which its QEMU said that it stopped."""
    wait_until("stop", lambda: guest.status() == "paused", timeout, 0.005)
    return time.monotonic() - since


def test_a_lease_that_runs_out_stops_it(env, version):
    a = env.guest("a", version=version)
    a.wait_tick(10)
    probe = Probe(env, a)
    probe("begin")
    for _ in range(10):
        probe("lease 60000")
    probe("take 5 1")
    assert a.running()
    t = time.monotonic()
    probe("lease 300")
    took = stopped_at(a, t)
    print(f"{version}: stopped {took * 1000 - 300:.0f} ms after the lease")
    assert took >= 0.3
    probe("lease 60000", EPERM)
    probe("stop")
    assert "resume" in probe("cont", EPERM)["err"]
    assert a.status() == "paused"
    assert note(env, "a")["phase"] == "fenced"
    # Somebody vouches for it: an arbiter, the standby itself.
    probe("end run")
    assert a.running()
    assert note(env, "a") is None
    a.wait_more_ticks(5)
    probe.proc.stdin.close()
    probe.proc.wait(30)


def test_a_guardian_that_was_killed_is_missed(env):
    a = env.guest("a")
    a.wait_tick(2)
    probe = Probe(env, a)
    probe("begin")
    probe("lease 60000")
    [pid] = guardians(env)
    os.kill(pid, signal.SIGKILL)
    wait_until("its end", lambda: has_ended(pid))
    assert "has ended" in probe("lease 60000", -32)["err"]
    probe("take 2 1")
    probe("end run")
    assert a.running()


def resume(env, guest):
    g = env.godwit("resume", guest.name, "--yes")
    assert g.wait() == 0, g.stderr()
    assert guest.running()
    assert note(env, guest.name) is None
    guest.wait_more_ticks(10)
    assert_one_story(guest)


@pytest.mark.parametrize("when", ["running", "stopped"])
def test_a_killed_probe_stops_it(env, version, when):
    a = env.guest("a", version=version)
    a.wait_tick(10)
    probe = Probe(env, a)
    probe("begin hold")
    probe("lease 60000")
    probe("take 5 1")
    if when == "stopped":
        probe("stop")
    t = time.monotonic()
    probe.kill()
    took = stopped_at(a, t)
    print(f"{version}: stopped {took * 1000:.0f} ms after the death")
    wait_until("note", lambda: note(env, "a")["phase"] == "fenced")
    time.sleep(0.5)
    assert a.status() == "paused"
    # Its guardian looks after it for a moment longer.
    wait_until("end of the guardian", lambda: unlocked(a), 30)
    resume(env, a)


def unlocked(guest):
    g = guest.env.godwit("resume", guest.name)
    return "moved by another" not in (g.wait(), g.stderr())[1]


# --- a fresh one in its place -----------------------------------------------

def adopt(guest):
    """What `replace` started under its name."""
    old = guest.pid
    guest.pid = guest.env.list()[guest.name]["pid"]
    assert guest.pid != old
    guest.daemon = os.pidfd_open(guest.pid)
    guest.env.daemons.append(guest.daemon)


@pytest.mark.parametrize("why", ["spoiled", "killed", "waiting"])
def test_a_fresh_qemu_takes_over(env, version, why):
    a, b = pair(env, version)
    probe = Probe(env, a)
    probe("begin")
    probe("take 5 1")
    before = a.ticks()[-1].n
    a.kill()
    if why == "spoiled":
        # ECONNRESET: it has ended; EREMOTEIO: it stays, of no use.
        probe("spoil b", -104 if version == "7.2" else -121)
    else:
        probe("attach b")
    if why == "killed":
        b.kill()
    got = probe("replace")
    print(f"{version}: a fresh QEMU after {got['replace_ms']} ms")
    assert b.proc.wait(30) is not None  # the old one ended
    adopt(b)
    assert_goes_on(a, b, before)
    # A session of its own, so it outlives the probe.
    assert os.getsid(b.pid) not in (os.getsid(0), probe.proc.pid)
    probe.kill()
    b.wait_more_ticks(5)


def test_a_running_one_is_not_replaced(env, version):
    a = env.guest("a", version=version)
    b = env.guest("b", version=version)
    a.wait_tick(2)
    b.wait_tick(2)
    probe = Probe(env, a)
    probe("attach b")
    assert "runs" in probe("replace", -16)["err"]
    b.wait_more_ticks(5)


# --- what the guest sends ---------------------------------------------------

class Wire:
    """The other end of a guest's network: who asks by ARP where 10.0.2.15 is,
    from which of the addresses 10.0.2.100... and what is answered."""

    def __init__(self):
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
            s.bind(("127.0.0.1", 0))
            self.guest = s.getsockname()
        self.got = []

    def options(self):
        return ("-netdev", "socket,id=n0,udp=127.0.0.1:%d,"
                "localaddr=127.0.0.1:%d" %
                (self.sock.getsockname()[1], self.guest[1]),
                "-device", "virtio-net-pci,netdev=n0,romfile=")

    def ask(self, n):
        mac = bytes((2, 0, 0, 0, 0, n))
        self.sock.sendto(
            b"\xff" * 6 + mac + struct.pack(">HHHBBH", 0x806, 1, 0x800, 6, 4,
                                            1) +
            mac + bytes((10, 0, 2, 100 + n)) + bytes(6) +
            bytes((10, 0, 2, 15)) + bytes(18), self.guest)

    def answers(self, seconds=0.0):
        """To which questions there were answers so far."""
        end = time.monotonic() + seconds
        while select.select([self.sock], [], [],
                            max(0, end - time.monotonic()))[0]:
            f = self.sock.recv(2000)
            if f[12:14] == b"\x08\x06" and f[20:22] == b"\0\2":
                self.got.append(f[41] - 100)
        return self.got

    def wait(self, *answers):
        wait_until(f"answers {answers}",
                   lambda: self.answers() == list(answers))

    def close(self):
        self.sock.close()


@pytest.fixture
def wire():
    w = Wire()
    yield w
    w.close()


QUIET = 1.0  # seconds after which an answer would have come


def test_nothing_is_sent_before_it_is_released(env, version, wire):
    a = env.guest("a", version=version, extra=wire.options())
    a.wait_tick(20)
    wire.ask(0)
    wire.wait(0)
    probe = Probe(env, a)
    probe("begin hold")
    wire.ask(1)
    assert wire.answers(QUIET) == [0]
    for n in 2, 3, 4:  # n - 1 is safe when n was sent and is not
        probe("stop")
        probe("cont")
        wire.ask(n)
        assert wire.answers(QUIET)[-1] == n - 2
        probe("release")
        wire.wait(*range(n))
    # Two epochs at once, in order.
    probe("stop")
    probe("cont")
    wire.ask(5)
    assert wire.answers(QUIET)[-1] == 3
    probe("end run")
    wire.wait(*range(6))
    wire.ask(6)
    wire.wait(*range(7))
    a.assert_healthy()


def test_what_was_held_stays_in_a_vm_that_was_fenced(env, version, wire):
    a = env.guest("a", version=version, extra=wire.options())
    a.wait_tick(20)
    probe = Probe(env, a)
    probe("begin hold")
    probe("take 3 1")
    wire.ask(0)
    time.sleep(QUIET)
    probe.kill()
    wait_until("stop", lambda: a.status() == "paused")
    wire.ask(1)
    assert wire.answers(QUIET) == []
    wait_until("end of the guardian", lambda: unlocked(a), 30)
    assert wire.answers() == []
    resume(env, a)
    wire.wait(0, 1)
    assert not [x for x in a.ask("qom-list", path="/objects")
                if "godwit" in x["name"]]
