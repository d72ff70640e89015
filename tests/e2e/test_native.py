# SPDX-License-Identifier: BSD-3-Clause
"""`godwit migrate --native`: QEMU makes the whole stream, godwit carries it.
Most VMs here are plain QEMUs with a monitor and nothing else."""
import contextlib
import os
import signal
import socket
import sys
import time

import pytest

from harness import (CANCELLED, FAILED, INPUT, OK, REFUSED, UNCERTAIN,
                     USAGE, PlainGuest, assert_one_story, each_version, qemu_path,
                     said, wait_until)
from test_kill import Relay

MACHINE = "pc-i440fx-7.2"  # every QEMU here has it


class Plain(PlainGuest):
    """A QEMU that nobody prepared, with a monitor for godwit."""

    def __init__(self, env, name, incoming=False, version="10.0",
                 machine=MACHINE, extra=(), **kw):
        if not qemu_path(version):
            pytest.skip(f"QEMU {version} could not be unpacked on this machine"
                        f" (scripts/get-qemu {version} says why)")
        monitor = os.path.join(env.dir, name + ".qmp")
        super().__init__(env, name, version=version, machine=machine,
                         incoming="defer" if incoming else None,
                         extra=("-qmp", f"unix:{monitor},server=on,wait=off",
                                *extra), **kw)
        self.ref = "qmp=" + monitor
        wait_until(f"monitor of {name}",
                   lambda: os.path.exists(monitor) or not self.alive())


def settings(guest):
    """What QEMU's user has set."""
    p = guest.ask("query-migrate-parameters")
    return ({c["capability"]: c["state"]
             for c in guest.ask("query-migrate-capabilities")},
            p["max-bandwidth"], p["downtime-limit"])


def native(env, guest, uri, *options, fds=()):
    ref = getattr(guest, "ref", guest.name)
    return env.godwit("migrate", ref, uri, "--native", "--json", *options,
                      fds=fds)


def booted(env, name="a", **kw):
    a = Plain(env, name, **kw)
    a.wait_tick(20)
    return a


def arrived(a, b, tx):
    """It all went well; what the last JSON object says."""
    assert tx.wait() == OK, tx.stderr()
    b.wait_more_ticks(10)
    assert_one_story(a, b)
    assert a.status() == "postmigrate"
    r = tx.result()
    assert r["event"] == "completed" and r["status"] == "completed"
    return r


def stays(a, before=None):
    wait_until(f"running {a.name}", a.running, 30)
    a.wait_more_ticks(5)
    assert_one_story(a)
    if before:
        assert settings(a) == before


# --- it moves ---------------------------------------------------------------

@pytest.mark.parametrize("old, new", [("10.0", "10.0"), ("7.2", "10.0"),
                                      ("10.0", "7.2"), ("11.1", "11.1"),
                                      ("10.0", "11.1"), ("11.1", "7.2")])
def test_plain_qemu_to_plain_qemu(env, old, new):
    a = booted(env, version=old)
    b = Plain(env, "b", incoming=True, version=new)
    before = settings(a)
    r = arrived(a, b, native(env, a, b.listen()))
    assert settings(a) == before
    ram = r["ram"]
    assert ram["total"] >= 256 << 20 and ram["remaining"] == 0
    assert ram["normal"] + ram["duplicate"] >= (256 << 20) / 4096
    assert ram["transferred"] > ram["normal-bytes"]
    assert ram["dirty-sync-count"] >= 2
    assert 0 < r["downtime"] <= r["total-time"]
    assert "tracker" not in r


def test_events_and_summary_are_those_of_a_move(env):
    a, b = booted(env), Plain(env, "b", incoming=True)
    tx = native(env, a, b.listen())
    arrived(a, b, tx)
    order = ["setup", "active", "pre-switchover", "device", "completed"]
    states = [order.index(e["status"]) for e in tx.events()]
    assert states == sorted(states) and {0, 1, 4} <= set(states)
    moved = [e["ram"]["transferred"] for e in tx.events()]
    assert moved == sorted(moved)
    # And for people, back into a fresh one.
    c = Plain(env, "c", incoming=True)
    tx = env.godwit("migrate", b.ref, c.listen(), "--native")
    assert tx.wait() == OK, tx.stderr()
    out = tx.stdout()
    assert out.startswith("migrated in ") and "by QEMU itself" in out
    assert "downtime" in out and "pages: " in out
    c.wait_more_ticks(10)
    assert_one_story(a, b, c)


@pytest.mark.parametrize("version", ["10.0", "11.1"])
def test_switchover_ack_and_the_users_capabilities_are_carried(env, version):
    """The source waits for a message on the return path before it stops the
    VM; xbzrle and auto-converge stay as they were set."""
    kw = dict(machine="pc-i440fx-10.0", version=version)
    a, b = booted(env, **kw), Plain(env, "b", incoming=True, **kw)
    mine = dict(return_path=True, switchover_ack=True)
    a.capabilities(xbzrle=True, auto_converge=True, **mine)
    before = settings(a)
    arrived(a, b, native(env, a, b.listen(xbzrle=True, **mine)))
    assert settings(a) == before
    assert "xbzrle-cache" in a.ask("query-migrate")


def test_without_switchover_ack_from_the_destination_it_waits(env):
    """The counter-proof: it is that message that lets the source go on."""
    kw = dict(machine="pc-i440fx-10.0")
    a, b = booted(env, **kw), Plain(env, "b", incoming=True, **kw)
    a.capabilities(return_path=True, switchover_ack=True)
    before = settings(a)
    tx = native(env, a, b.listen())
    wait_until("third pass", lambda: any(
        e["ram"]["dirty-sync-count"] > 3 for e in tx.events()))
    assert a.running() and tx.proc.poll() is None
    tx.kill(signal.SIGINT)
    assert tx.wait() == CANCELLED, tx.stderr()
    stays(a, before)


def test_a_vm_of_godwit_run_moves_natively_to_a_plain_qemu(env):
    a = env.guest("a", machine=MACHINE)
    b = Plain(env, "b", incoming=True)
    a.wait_tick(20)
    arrived(a, b, native(env, a, b.listen()))
    assert env.list()["a"]["handover"]["phase"] == "done"


def test_a_paused_vm_stays_paused(env):
    a, b = booted(env), Plain(env, "b", incoming=True)
    a.ask("stop")
    before = a.ticks()[-1].n
    tx = native(env, a, b.listen())
    assert tx.wait() == OK, tx.stderr()
    assert a.status() == "postmigrate" and b.status() == "paused"
    b.ask("cont")
    b.wait_tick(before + 5)
    assert_one_story(a, b)


RELAY = """
import socket, sys, threading, os
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
def up():
    while data := os.read(0, 1 << 18):
        s.sendall(data)
    s.shutdown(socket.SHUT_WR)
threading.Thread(target=up, daemon=True).start()
while data := s.recv(1 << 18):
    os.write(1, data)
"""


def test_through_a_command(env):
    a, b = booted(env), Plain(env, "b", incoming=True)
    script = os.path.join(env.dir, "relay.py")
    with open(script, "w") as f:
        f.write(RELAY)
    port = b.listen().rpartition(":")[2]
    arrived(a, b, native(env, a, f"exec:exec {sys.executable} {script} {port}"))


def test_one_way_through_a_pipe(env):
    """No answer comes: no return path, as QEMU does with fd: of its own."""
    a = booted(env)
    r, w = os.pipe()
    cat = os.path.join(env.dir, "pipe")
    os.mkfifo(cat)
    b = Plain(env, "b", incoming=True)
    b.wait_up()
    keep = os.open(cat, os.O_RDWR)  # so that neither end waits for the other
    b.ask("migrate-incoming", uri=f"exec:cat {cat}")
    out = os.open(cat, os.O_WRONLY)
    os.close(keep)
    os.close(r)
    os.close(w)
    tx = native(env, a, f"fd:{out}", fds=[out])
    os.close(out)
    arrived(a, b, tx)


def test_max_bandwidth_is_given_to_qemu(env):
    a, b = booted(env), Plain(env, "b", incoming=True)
    at = b.listen()
    tx = native(env, a, at, "--max-bandwidth", "20M", "--downtime-limit",
                "1500ms")
    wait_until("migration", lambda: any(e["status"] == "active"
                                        for e in tx.events()))
    p = a.ask("query-migrate-parameters")
    assert (p["max-bandwidth"], p["downtime-limit"]) == (20 << 20, 1500)
    arrived(a, b, tx)
    assert settings(a)[1:] == (128 << 20, 300)


# --- it does not, and the VM goes on ----------------------------------------

def test_ctrl_c_midway(env):
    a, b = booted(env), Plain(env, "b", incoming=True)
    before = settings(a)
    tx = native(env, a, b.listen(), "--max-bandwidth", "8M")
    wait_until("bytes", lambda: any(e["ram"]["transferred"] > 4 << 20
                                    for e in tx.events()))
    assert a.running()
    tx.kill(signal.SIGINT)
    assert tx.wait() == CANCELLED, tx.stderr()
    assert "cancelled; the VM runs on here" in said(tx)
    stays(a, before)
    assert tx.result()["status"] == "cancelled"
    # And moves after all.
    c = Plain(env, "c", incoming=True)
    arrived(a, c, native(env, a, c.listen()))


@pytest.mark.parametrize("version", each_version())
def test_a_destination_of_another_machine_type_refuses(env, version):
    a = booted(env)
    b = Plain(env, "b", incoming=True, version=version, machine="q35")
    before = settings(a)
    tx = native(env, a, b.listen())
    assert tx.wait() in (FAILED, REFUSED), tx.stderr()
    assert "destination" in said(tx) and "runs on here" in said(tx)
    stays(a, before)


@pytest.mark.parametrize("version", each_version())
def test_a_destination_without_a_device_refuses(env, version):
    """Found out when it loads the device state, after the VM was stopped."""
    a = booted(env, extra=["-device", "virtio-rng-pci"])
    b = Plain(env, "b", incoming=True, version=version)
    before = settings(a)
    tx = native(env, a, b.listen())
    assert tx.wait() in (FAILED, REFUSED), tx.stderr()
    assert "destination" in said(tx) and "runs on here" in said(tx)
    stays(a, before)


@pytest.mark.parametrize("answer, text", [
    (b"GODWIT\r\n", "takes only what a godwit sends, not QEMU's own stream"),
    (b"", "a 'godwit receive' there takes only what a godwit sends"),
    (b"HTTP/1.1 400 Bad Request", "is no return path of QEMU")])
def test_who_listens_is_no_qemu(env, answer, text):
    """A godwit of before: it greets, or parts in silence. Or anybody else."""
    a = booted(env)
    before = settings(a)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        tx = native(env, a, f"tcp:127.0.0.1:{listener.getsockname()[1]}")
        s = listener.accept()[0]
        s.recv(64)
        s.sendall(answer)
        s.shutdown(socket.SHUT_WR)
        # to close now, with bytes unread, could destroy the answer
        with contextlib.suppress(ConnectionError):
            while answer and s.recv(65536):
                pass
        s.close()
        assert tx.wait() in (FAILED, INPUT, REFUSED), tx.stderr()
    assert text in said(tx) and "runs on here" in said(tx)
    stays(a, before)


def test_the_destination_is_killed_midway(env):
    a, b = booted(env), Plain(env, "b", incoming=True)
    before = settings(a)
    tx = native(env, a, b.listen(), "--max-bandwidth", "8M")
    wait_until("bytes", lambda: any(e["ram"]["transferred"] > 4 << 20
                                    for e in tx.events()))
    b.kill()
    assert tx.wait() == FAILED, tx.stderr()
    assert "lost the destination" in said(tx)
    assert "runs on here" in said(tx)
    stays(a, before)


def test_a_destination_that_stops_reading_is_given_up(env):
    a, b = booted(env), Plain(env, "b", incoming=True)
    before = settings(a)
    at = b.listen()
    os.kill(b.pid, signal.SIGSTOP)
    tx = native(env, a, at, "--idle-timeout", "2s")
    assert tx.wait() == FAILED, tx.stderr()
    assert "for 2 s" in said(tx) and "runs on here" in said(tx)
    stays(a, before)


@pytest.mark.parametrize("capability", [
    "multifd", "postcopy-ram", "background-snapshot", "mapped-ram",
    "x-ignore-shared"])
def test_what_one_connection_cannot_carry_is_refused(env, capability):
    a, b = booted(env), Plain(env, "b", incoming=True)
    a.capabilities(**{capability: True})
    before = settings(a)
    tx = native(env, a, b.listen())
    assert tx.wait() == USAGE
    assert f"capability {capability} is on" in said(tx)
    stays(a, before)


def test_what_excludes_native_mode_is_said(env):
    a = booted(env)
    for options, text in ((["--verify"], "native and verify exclude"),
                          (["--tracker", "uffd-wp"], "native and tracker")):
        tx = native(env, a, "tcp:127.0.0.1:1", *options)
        assert tx.wait() == USAGE and text in said(tx), tx.stderr()
    # Without it there is no way without the agent, and that is said.
    tx = env.godwit("migrate", a.ref, "tcp:127.0.0.1:1")
    assert tx.wait() == USAGE
    assert "without the agent" in said(tx) and "--native" in said(tx)
    tx = native(env, a, "tcp:127.0.0.1:1")
    assert tx.wait() == FAILED and "refused" in said(tx)
    stays(a)


def test_a_blocker_of_qemu_shows_in_its_own_words(env):
    a = booted(env, extra=["-device", "ivshmem-plain,memdev=m,master=off",
                           "-object", "memory-backend-ram,id=m,size=1M,"
                           "share=on"])
    tx = native(env, a, "tcp:127.0.0.1:1")
    assert tx.wait() == USAGE
    assert "QEMU says: " in said(tx) and "ivshmem" in said(tx)
    stays(a)


# --- the hand-over ------------------------------------------------------------

def hand_over_without_answer(env, a, b, relay, *options):
    tx = native(env, a, relay.uri, "--handover-timeout", "2s", *options)
    assert tx.wait() == UNCERTAIN, tx.stderr()
    text = said(tx)
    assert "hand-over" in text and "stands still here" in text
    assert "within 2000 ms" in text
    return text


@pytest.mark.parametrize("version", each_version())
def test_swallowed_answers_leave_no_two_running_vms(env, version):
    """All of the VM arrives and no word comes back: the destination runs it,
    the source must not, now or later."""
    a = booted(env, version=version)
    b = Plain(env, "b", incoming=True, version=version)
    before = settings(a)
    relay = Relay(int(b.listen().rpartition(":")[2]), swallow=["back"])
    try:
        text = hand_over_without_answer(env, a, b, relay)
        assert f"'godwit resume {a.ref}'" in text
        b.wait_more_ticks(10)
        assert a.status() == "postmigrate" and b.running()
        assert settings(a) == before
        relay.cut()
        time.sleep(1)
        assert a.status() == "postmigrate"
        assert_one_story(a, b)
    finally:
        with contextlib.suppress(OSError):
            relay.close()


def test_an_uncertain_hand_over_is_settled_by_resume(env):
    """The destination is dead, and an operator says so."""
    a = env.guest("a", machine=MACHINE)
    b = Plain(env, "b", incoming=True, extra=["-S"])
    a.wait_tick(20)
    relay = Relay(int(b.listen().rpartition(":")[2]), swallow=["back"])
    try:
        hand_over_without_answer(env, a, b, relay)
    finally:
        relay.close()
    assert a.status() == "postmigrate" and not b.ticks()
    b.kill()
    assert env.list()["a"]["handover"]["phase"] == "uncertain"
    back = env.godwit("resume", "a", "--yes")
    assert back.wait() == OK, back.stderr()
    stays(a)
    c = Plain(env, "c", incoming=True)
    arrived(a, c, native(env, a, c.listen()))


def paused(env, a, uri, point, *options):
    """A move that stands at @point."""
    env.environ["GODWIT_TEST_PAUSE"] = point
    tx = native(env, a, uri, *options)
    del env.environ["GODWIT_TEST_PAUSE"]
    wait_until(point, lambda: f"paused at {point}" in tx.stderr())
    return tx


@pytest.mark.parametrize("version", each_version())
@pytest.mark.parametrize("point", ["source:setup", "source:bulk",
                                   "source:stopped"])
def test_a_killed_godwit_leaves_the_vm_running(env, version, point):
    a = booted(env, version=version)
    b = Plain(env, "b", incoming=True, version=version)
    before = settings(a)
    tx = paused(env, a, b.listen(), point, "--max-bandwidth", "100M")
    tx.kill()
    tx.wait()
    wait_until(f"running {a.name}", a.running, 60)
    wait_until("settings of before", lambda: settings(a) == before, 30)
    stays(a)
    assert not b.ticks()


@pytest.mark.parametrize("version", each_version())
def test_a_godwit_killed_in_the_hand_over_leaves_no_two_vms(env, version):
    """The destination has it all and runs it: the source's QEMU must not take
    the end of its socket for a reason to run the VM on."""
    a = booted(env, version=version)
    b = Plain(env, "b", incoming=True, version=version)
    before = settings(a)
    relay = Relay(int(b.listen().rpartition(":")[2]), swallow=["back"])
    try:
        tx = paused(env, a, relay.uri, "source:device", "--handover-timeout",
                    "1m")
        b.wait_more_ticks(5)
        tx.kill()
        tx.wait()
        wait_until("completed", lambda: a.status() == "postmigrate", 60)
        wait_until("settings of before", lambda: settings(a) == before, 30)
        time.sleep(1)
        assert a.status() == "postmigrate" and b.running()
        wait_until("word of the guardian",
                   lambda: "stands still here" in tx.stderr())
        assert_one_story(a, b)
    finally:
        relay.close()


@pytest.mark.parametrize("point, status", [("source:stopped", "running"),
                                           ("source:device", "running")])
def test_a_destination_killed_in_the_hand_over(env, point, status):
    """Before all of it was there, and after: QEMU here runs the VM on."""
    a = booted(env)
    b = Plain(env, "b", incoming=True, extra=["-S"])
    before = settings(a)
    relay = Relay(int(b.listen().rpartition(":")[2]), swallow=["back"])
    try:
        tx = paused(env, a, relay.uri, point)
        b.kill()
        relay.cut()
        os.kill(tx.pid, signal.SIGCONT)
        assert tx.wait() == FAILED, tx.stderr()
        assert "runs on here" in said(tx)
        assert a.status() == status
        stays(a, before)
    finally:
        with contextlib.suppress(OSError):
            relay.close()
