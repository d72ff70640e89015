# SPDX-License-Identifier: BSD-3-Clause
"""A VM is protected: its host dies, or godwit does, or the network, or nobody;
and the standby takes over, or does not. Looked at from outside all the time:
never do two run."""
import contextlib
import json
import os
import random
import re
import signal
import socket
import threading
import time

import pytest

from harness import (CANCELLED, FAILED, OK, UNCERTAIN, USAGE, assert_one_story,
                     each_version, pausing, said, stopped, wait_until)

GUEST = "gw.tick=20 gw.dirty=16:2000"
TIMEOUT = 4  # seconds; machines are shared, and may stand for one


# --- a network that can be cut ------------------------------------------------

class Network:
    """TCP to @port, any number of connections. cut(): not a byte more in
    either direction, and nobody is told. stall(n): nobody reads what comes on
    connection @n any more, so that whoever writes is stuck."""

    def __init__(self, port):
        self.port = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"tcp:127.0.0.1:{self.listener.getsockname()[1]}"
        self.is_cut = threading.Event()
        self.socks, self.gates = [], []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.port))
                self.socks += [near, far]
                gate = threading.Event()
                gate.set()
                self.gates.append(gate)
                for a, b in (near, far), (far, near):
                    threading.Thread(target=self.pump, args=(a, b, gate),
                                     daemon=True).start()

    def pump(self, a, b, gate):
        with contextlib.suppress(OSError):
            while gate.wait() and (data := a.recv(1 << 18)):
                if self.is_cut.is_set():
                    return  # the bytes are lost, the sockets stay
                b.sendall(data)
            if not self.is_cut.is_set():
                b.shutdown(socket.SHUT_WR)

    def cut(self):
        self.is_cut.set()

    def stall(self, n):
        self.gates[n].clear()

    def close(self):
        for gate in self.gates:
            gate.set()
        for s in (self.listener, *self.socks):
            s.close()


# --- who runs? ------------------------------------------------------------------

class Watch(threading.Thread):
    """Asks QEMUs, one after the other, whether they run; two that say so
    within one round, asked again in the other order, run both."""

    def __init__(self, *guests):
        super().__init__(daemon=True)
        self.guests, self.two, self.rounds = guests, [], 0
        self.quit = threading.Event()
        self.start()

    def running(self, guests):
        out = []
        for g in guests:
            with contextlib.suppress(OSError, ConnectionError, ValueError,
                                     KeyError):
                if g.running():
                    out.append(g.name)
        return out

    def run(self):
        while not self.quit.is_set():
            if len(self.running(self.guests)) > 1:
                again = self.running(reversed(self.guests))
                if len(again) > 1:
                    self.two.append(again)
            self.rounds += 1

    def end(self):
        self.quit.set()
        self.join()
        assert self.rounds > 0
        assert not self.two, f"two VMs ran: {self.two[:3]}"


# --- a protected VM --------------------------------------------------------------

class Protected:
    """Guest @a, protected by a standby with guest @b."""

    def __init__(self, env, a, b, *options, standby=(), network=False,
                 uri="tcp:127.0.0.1:0", pause=""):
        self.env, self.a, self.b = env, a, b
        b.wait_up()
        at_primary = pause.startswith("source:")
        with pausing(env, "" if at_primary else pause):
            self.standby = env.godwit("standby", uri, b.name, "--json",
                                      "--timeout", f"{TIMEOUT}s", *standby)
        self.at = wait_until("listening standby", self.listening)
        self.network = None
        if network:
            self.network = Network(int(self.at.rsplit(":", 1)[1]))
            self.at = self.network.uri
        with pausing(env, pause if at_primary else ""):
            self.primary = env.godwit("protect", a.name, self.at, "--json",
                                      *options)
        self.samples = []  # (checkpoint, tick that was printed before it)

    def listening(self):
        assert self.standby.proc.poll() is None, self.standby.stderr()
        e = [x for x in self.standby.events() if x["event"] == "listening"]
        return e and e[0]["uri"]

    def checkpoint(self):
        """The last one that is complete."""
        return self.status()["checkpoint"]

    def wait(self, n, timeout=120):
        """For checkpoint @n."""
        def there():
            assert self.primary.proc.poll() is None, \
                self.primary.stderr() + self.standby.stderr()
            self.sample()
            return self.samples[-1][0] >= n
        wait_until(f"checkpoint {n} of {self.a.name}", there, timeout)

    def status(self, timeout=30):
        """What the standby says of itself, this moment."""
        with socket.socket(socket.AF_UNIX) as s:
            s.settimeout(timeout)
            s.connect(os.path.join(self.env.rundir, self.b.name,
                                   "standby.sock"))
            s.sendall(b"status\n")
            return json.loads(s.makefile().readline())

    def sample(self, timeout=30):
        """The tick first: it was there when that checkpoint was the last."""
        t = self.a.ticks()
        self.samples.append((self.status(timeout)["checkpoint"],
                             t[-1].n if t else 0))

    def least(self, checkpoint):
        """What that checkpoint has at least: ticks that were on the console
        while one two before it was the last one. (It is begun after the
        acknowledgement of its predecessor.)"""
        return max((n for c, n in self.samples if c + 2 <= checkpoint),
                   default=0)

    def took_over(self, timeout=60):
        """The standby has: its last words."""
        assert self.standby.wait(timeout) == OK, self.standby.stderr()
        return self.standby.result()


def pair(env, i=0, append=GUEST, **kw):
    kw.setdefault("memory", 256)
    a = env.guest(f"a{i}", append=append, **kw)
    b = env.guest(f"b{i}", append=append, incoming=True, **kw)
    a.wait_tick(10)
    return a, b


def assert_goes_on(a, b, least):
    """Guest b is guest a at an earlier moment: it goes on from there, and all
    it has is whole. @least: the tick that it must know at least."""
    b.wait_more_ticks(20)
    before, after = a.ticks(), b.ticks()
    numbers = [t.n for t in after]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), \
        numbers
    # The first half of a tick may be on the other's console.
    assert least < numbers[0] <= before[-1].n + 2, (least, numbers[0],
                                                    before[-1])
    assert {t.sum for t in before} == {t.sum for t in after}
    assert after[-1].bad == 0
    assert not [x for x in b.lines() if x.startswith("BAD")]


def die(p, rng):
    """The host of the primary is gone: QEMU and godwit, in either order."""
    victims = [p.a.pid, p.primary.pid]
    rng.shuffle(victims)
    for pid in victims:
        os.kill(pid, signal.SIGKILL)


def rounds(env, n, interval, checkpoints, **kw):
    seed = int(os.environ.get("GODWIT_SEED", str(random.randrange(1 << 32))))
    print(f"seed {seed}")
    rng = random.Random(seed)
    a = env.guest("v0", append=GUEST, memory=192, **kw)
    a.wait_tick(10)
    for i in range(1, n + 1):
        b = env.guest(f"v{i}", append=GUEST, memory=192, incoming=True, **kw)
        p = Protected(env, a, b, "--interval", interval)
        p.wait(checkpoints)
        time.sleep(rng.random() * 0.2)
        p.sample()
        watch = Watch(a, b)
        die(p, rng)
        last = p.took_over()
        b.wait_more_ticks(3)
        watch.end()
        done = last["colo"]["checkpoint"]
        assert done >= p.samples[-1][0] > 0
        assert_goes_on(a, b, p.least(done))
        a.proc.wait(30)
        a = b


# --- somebody dies ----------------------------------------------------------------

def test_the_primarys_host_dies(env):
    rounds(env, 3, "50ms", 10)


@pytest.mark.soak
def test_the_primarys_host_dies_many_times(env):
    rounds(env, int(os.environ.get("GODWIT_ROUNDS", "100")), "20ms", 20)


@pytest.mark.soak
def test_after_2000_checkpoints(env):
    rounds(env, 1, "10ms", 2000)


@pytest.mark.parametrize("qemu", each_version(), indirect=True)
def test_only_its_godwit_dies(env, qemu):
    """Its QEMU lives, and must stand before the standby's runs."""
    a, b = pair(env, version=qemu)
    p = Protected(env, a, b)
    p.wait(5)
    watch = Watch(a, b)
    p.primary.kill()
    done = p.took_over()["colo"]["checkpoint"]
    b.wait_more_ticks(5)
    watch.end()
    assert a.status() == "paused"
    assert_goes_on(a, b, p.least(done))
    note = env.list()[a.name]["handover"]
    assert note and note["phase"] == "fenced", note


def test_its_godwit_stands_still(env):
    """Alive, and not answering: the guardian stops the VM in time."""
    a, b = pair(env)
    p = Protected(env, a, b)
    p.wait(5)
    watch = Watch(a, b)
    p.primary.kill(signal.SIGSTOP)
    done = p.took_over()["colo"]["checkpoint"]
    b.wait_more_ticks(5)
    watch.end()
    assert a.status() == "paused"
    assert_goes_on(a, b, p.least(done))
    p.primary.kill(signal.SIGCONT)
    assert p.primary.wait() == UNCERTAIN, p.primary.stderr()
    assert a.status() == "paused"


def test_its_qemu_dies(env):
    a, b = pair(env)
    p = Protected(env, a, b)
    p.wait(5)
    a.kill()
    done = p.took_over()["colo"]["checkpoint"]
    assert_goes_on(a, b, p.least(done))
    assert p.primary.wait() != OK


def test_the_network_is_cut(env):
    """Neither side knows of the other: the primary stands before the standby
    runs, says so, and only an operator sets it going again."""
    a, b = pair(env)
    p = Protected(env, a, b, network=True)
    p.wait(5)
    watch = Watch(a, b)
    p.network.cut()
    done = p.took_over()["colo"]["checkpoint"]
    assert p.primary.wait(60) == UNCERTAIN, p.primary.stderr()
    b.wait_more_ticks(5)
    watch.end()
    assert a.status() == "paused"
    assert "godwit resume" in said(p.primary)
    assert_goes_on(a, b, p.least(done))
    # The operator decides for the other one.
    b.kill()
    assert env.godwit("resume", a.name, "--yes").wait() == OK
    assert a.running()
    a.wait_more_ticks(5)
    p.network.close()


def test_without_a_fence_it_runs_on(env):
    a, b = pair(env)
    p = Protected(env, a, b, "--no-fence", network=True)
    p.wait(5)
    p.network.cut()
    p.took_over()
    assert p.primary.wait(60) == FAILED, p.primary.stderr()
    assert a.running() and b.running()  # as it was told to
    p.network.close()


def test_the_standby_dies(env):
    """A primary cannot tell that from a cut network: it stands."""
    a, b = pair(env)
    p = Protected(env, a, b)
    p.wait(5)
    p.standby.kill()
    assert p.primary.wait(60) == UNCERTAIN, p.primary.stderr()
    assert a.status() == "paused" and b.status() == "inmigrate"
    assert env.godwit("resume", a.name, "--yes").wait() == OK
    a.wait_more_ticks(5)


def test_the_standbys_qemu_dies(env):
    """It is replaced by a fresh one with the same command."""
    a, b = pair(env)
    p = Protected(env, a, b)
    p.wait(5)
    b.kill()
    p.wait(p.checkpoint() + 10)
    die(p, random.Random(1))
    done = p.took_over()["colo"]["checkpoint"]
    vm = env.list()[b.name]
    b.pid, b.daemon = vm["pid"], os.pidfd_open(vm["pid"])
    env.daemons.append(b.daemon)
    assert_goes_on(a, b, p.least(done))


# --- somebody decides --------------------------------------------------------------

def test_ctrl_c_at_the_primary(env):
    a, b = pair(env)
    p = Protected(env, a, b)
    p.wait(5)
    p.primary.kill(signal.SIGINT)
    assert p.primary.wait() == OK, p.primary.stderr()
    assert p.standby.wait() == OK, p.standby.stderr()
    time.sleep(TIMEOUT + 0.5)
    assert a.running() and b.status() == "inmigrate"
    a.wait_more_ticks(5)
    assert env.list()[a.name]["handover"] is None
    # And again, with the same standby.
    p = Protected(env, a, b)
    p.wait(3)
    die(p, random.Random(2))
    p.took_over()
    b.wait_more_ticks(5)


@pytest.mark.parametrize("n", [0, 3])
def test_ctrl_c_in_the_middle_of_a_page(env, n):
    """What is being written cannot be ended, and the standby hears it all the
    same: the lease has a connection of its own."""
    a, b = pair(env)
    p = Protected(env, a, b, network=True, pause="" if n else "source:bulk")
    if n:
        p.wait(n)
    else:
        wait_until("the first copy", lambda: stopped(p.primary))
    p.network.stall(0)
    p.primary.kill(signal.SIGCONT)
    time.sleep(TIMEOUT / 2)  # more than sockets hold is written by then
    last = p.checkpoint()
    p.primary.kill(signal.SIGINT)
    assert p.primary.wait() == (OK if n else CANCELLED), p.primary.stderr()
    assert p.standby.wait() == OK, p.standby.stderr()
    assert p.standby.result().get("colo", {}).get("checkpoint", 0) == last
    assert a.running() and b.status() == "inmigrate"
    assert env.list()[a.name]["handover"] is None
    a.wait_more_ticks(5)
    p.network.close()


def test_ctrl_c_at_the_standby(env):
    a, b = pair(env)
    p = Protected(env, a, b)
    p.wait(5)
    p.standby.kill(signal.SIGINT)
    assert p.standby.wait() != OK
    assert p.primary.wait() == FAILED, p.primary.stderr()
    time.sleep(TIMEOUT + 0.5)
    assert a.running() and b.status() == "inmigrate"
    assert "unprotected" in said(p.primary)
    a.wait_more_ticks(5)


def one_story(a, b):
    """Not a tick lost or repeated."""
    b.wait_more_ticks(10)
    assert_one_story(a, b)


@pytest.mark.parametrize("qemu", each_version(), indirect=True)
@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_failover_on_demand_loses_nothing(env, qemu, machine):
    a, b = pair(env, version=qemu, machine=machine)
    p = Protected(env, a, b)
    p.wait(5)
    watch = Watch(a, b)
    f = env.godwit("failover", b.name)
    assert f.wait() == OK, f.stderr() + p.standby.stderr()
    assert p.took_over()["status"] == "completed"
    assert p.primary.wait() == OK, p.primary.stderr()
    one_story(a, b)
    watch.end()
    assert not a.running()


def test_with_video_memory(env):
    """A VM with memory of its own that changes needs the whole state."""
    a, b = pair(env, extra=["-vga", "std"])
    p = Protected(env, a, b)
    p.wait(5)
    die(p, random.Random(3))
    done = p.took_over()["colo"]["checkpoint"]
    assert_goes_on(a, b, p.least(done))


@pytest.mark.parametrize("options", [
    ["--xbzrle"], ["--channels", "2", "--compress", "zstd"],
    ["--channels", "2", "--xbzrle"]], ids=["xbzrle", "zstd", "channels"])
def test_smaller_checkpoints(env, options):
    a, b = pair(env, append="gw.tick=20 gw.loop=16:3000")
    p = Protected(env, a, b, *options)
    p.wait(20)
    die(p, random.Random(4))
    done = p.took_over()["colo"]["checkpoint"]
    assert_goes_on(a, b, p.least(done))


def test_a_standby_that_starts_again(env, tmp_path):
    """With a file it has what was complete when it was killed."""
    cache = os.path.join(env.dir, "cache")
    a, b = pair(env)
    p = Protected(env, a, b, standby=["--cache", cache])
    p.wait(10)
    acknowledged = p.checkpoint()
    p.sample()
    p.standby.kill()
    assert p.primary.wait(60) == UNCERTAIN
    a.kill()
    s = env.godwit("standby", "tcp:127.0.0.1:0", b.name, "--json", "--cache",
                   cache)
    wait_until("listening standby",
               lambda: any(e["event"] == "listening" for e in s.events()) or
               s.proc.poll() is not None)
    assert s.proc.poll() is None, s.stderr()
    time.sleep(TIMEOUT)
    assert s.proc.poll() is None and b.status() == "inmigrate"
    f = env.godwit("failover", b.name)
    assert f.wait() == OK, f.stderr() + s.stderr()
    assert s.wait() == OK, s.stderr()
    done = s.result()["colo"]["checkpoint"]
    assert done >= acknowledged
    assert_goes_on(a, b, p.least(done))


def arbiter(env, name, code):
    """A command that says no or yes, and that it was asked."""
    path, log = (os.path.join(env.dir, name + x) for x in (".sh", ".asked"))
    with open(path, "w") as f:
        f.write(f'#!/bin/sh\necho "$GODWIT_ROLE $GODWIT_VM" >> {log}\n'
                f"exit {code}\n")
    os.chmod(path, 0o755)
    return path, log


@pytest.mark.parametrize("primary, standby", [(0, 1), (1, 0), (1, 1)])
def test_an_arbiter_decides(env, primary, standby):
    a, b = pair(env)
    mine, my_log = arbiter(env, "primary", primary)
    theirs, their_log = arbiter(env, "standby", standby)
    p = Protected(env, a, b, "--arbiter", mine,
                  standby=["--arbiter", theirs], network=True)
    p.wait(5)
    watch = Watch(a, b)
    p.network.cut()
    assert p.primary.wait(60) == (UNCERTAIN if primary else FAILED), \
        p.primary.stderr()
    if standby == 0:
        assert p.standby.wait(60) == OK, p.standby.stderr()
    else:
        # It keeps what it has: an operator may know better.
        wait_until("a no", lambda: "failover" in p.standby.stderr(), 60)
        assert p.status()["checkpoint"] >= 5
    watch.end()
    assert a.running() == (primary == 0)
    assert b.running() == (standby == 0)
    with open(my_log) as f, open(their_log) as g:
        assert f.read().split() == ["primary", a.name]
        assert g.read().split() == ["standby", b.name]
    p.network.close()


# --- what cannot be ------------------------------------------------------------------

def test_fence_after_must_be_below_the_timeout(env):
    a, b = pair(env)
    p = Protected(env, a, b, "--fence-after", f"{TIMEOUT * 2}s")
    assert p.primary.wait() == USAGE, p.primary.stderr()
    assert f"{TIMEOUT}" in said(p.primary)
    assert a.running()
    assert p.standby.proc.poll() is None  # it goes on listening


def test_the_wrong_peers_say_what_to_do(env):
    a, b = pair(env)
    rx, at = env.receive(b)
    g = env.godwit("protect", a.name, at)
    assert g.wait() != OK
    assert "godwit standby" in g.stderr()
    rx.kill()
    rx.wait()
    p = Protected(env, a, b)
    p.wait(3)
    g = env.godwit("migrate", a.name, p.at)
    assert g.wait() != OK  # it is being moved already
    assert p.checkpoint() and p.primary.proc.poll() is None
    assert a.running()


def test_list_shows_both(env):
    a, b = pair(env)
    p = Protected(env, a, b)
    p.wait(5)
    vms = env.list()
    assert vms[a.name]["handover"]["phase"] == "protecting", vms
    assert vms[b.name]["handover"]["phase"] == "standby", vms
    f = env.godwit("failover", b.name, "--status")
    assert f.wait() == OK, f.stderr()
    assert re.search(r"standby, protected, checkpoint \d+,", f.stdout())
    f = env.godwit("failover", b.name, "--status", "--json")
    assert f.wait() == OK, f.stderr()
    assert json.loads(f.stdout())["checkpoint"] >= 5
    assert b.status() == "inmigrate"
