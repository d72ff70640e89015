# SPDX-License-Identifier: BSD-3-Clause
"""A VM run by godwit is saved in files that plain QEMU loads, and goes live
straight into a plain QEMU. The guest goes on with counter and checksum."""
import os
import signal
import socket
import threading

import pytest

from harness import (CANCELLED, FAILED, OK, REFUSED, UNCERTAIN, USAGE,
                     assert_one_story, qemu_path, wait_until)

BUSY = "gw.tick=20 gw.dirty=16:2000 gw.zero=10"
PC = "pc-i440fx-7.2"  # what every version has
RICH = ("-device", "VGA", "-netdev", "user,id=n", "-device",
        "virtio-net-pci,netdev=n", "-device", "virtio-balloon-pci",
        "-object", "rng-builtin,id=r", "-device", "virtio-rng-pci,rng=r")


def need(*names):
    for v in names:
        if not qemu_path(v):
            pytest.skip(f"QEMU {v} could not be unpacked on this machine")


def save(env, vm, path, *options):
    g = env.godwit("save", vm.name, path, "--json", *options)
    assert g.wait() == OK, g.stderr()
    assert g.result()["status"] == "completed"
    return g.result()


def nothing_left(path):
    """No file of that name, nor a temporary one beside it."""
    base = os.path.basename(path)
    return not [x for x in os.listdir(os.path.dirname(path)) if base in x]


# --- files -------------------------------------------------------------------

@pytest.mark.parametrize("version", ["10.0", "11.1"])
@pytest.mark.parametrize("live", [True, False], ids=["live", "stopped"])
def test_plain_qemu_loads_a_mapped_ram_file(env, version, live):
    need(version)
    kw = dict(version=version, append=BUSY, extra=RICH)
    a = env.guest("a", **kw)
    b = env.plain("b", incoming="defer", **kw)
    a.wait_tick(20)
    path = os.path.join(env.dir, "vm.mapped")
    r = save(env, a, path, "--stop", *(["--live"] if live else []))
    assert r["ram"]["dirty-sync-count"] > (1 if live else 0)
    assert a.status() == "postmigrate"
    b.wait_up()
    b.set("mapped-ram")
    b.load("file:" + path)
    b.wait_more_ticks(10)
    assert_one_story(a, b)


def test_multifd_and_direct_io_load_it_too(env):
    kw = dict(append=BUSY)
    a = env.guest("a", **kw)
    a.wait_tick(20)
    path = os.path.join(env.dir, "vm.mapped")
    save(env, a, path, "--live", "--stop", "--channels", "4", "--direct-io")
    b = env.plain("b", incoming="defer", **kw)
    b.wait_up()
    b.set("mapped-ram", "multifd", multifd_channels=2, direct_io=True)
    b.load("file:" + path)
    b.wait_more_ticks(10)
    assert_one_story(a, b)


@pytest.mark.parametrize("to", ["7.2", "10.0", "11.1"])
def test_plain_qemu_loads_a_stream(env, to):
    need(to, "10.0")
    kw = dict(append=BUSY, machine=PC)
    a = env.guest("a", **kw)
    a.wait_tick(20)
    path = os.path.join(env.dir, "vm.mig")
    save(env, a, path, "--live", "--stop", "--format", "stream")
    b = env.plain("b", incoming="defer", version=to, **kw)
    b.wait_up()
    b.load(f"exec:cat {path}")
    b.wait_more_ticks(10)
    assert_one_story(a, b)


@pytest.mark.parametrize("fmt", ["mapped-ram", "stream"])
def test_save_and_restore(env, fmt):
    kw = dict(append=BUSY, extra=RICH)
    a = env.guest("a", **kw)
    b = env.guest("b", incoming=True, **kw)
    a.wait_tick(20)
    path = os.path.join(env.dir, "vm.saved")
    save(env, a, path, "--live", "--stop", "--format", fmt)
    b.wait_up()
    g = env.godwit("restore", path, b.name, "--json")
    assert g.wait() == OK, g.stderr()
    b.wait_more_ticks(10)
    assert_one_story(a, b)
    # and on, from memory that godwit placed
    c = env.guest("c", incoming=True, **kw)
    env.move(b, c)
    c.wait_more_ticks(5)
    assert_one_story(a, b, c)


@pytest.mark.parametrize("options", [(), ("--live",), ("--format", "stream")])
def test_the_vm_goes_on_after_a_save(env, options):
    a = env.guest("a", append=BUSY)
    a.wait_tick(20)
    path = os.path.join(env.dir, "vm.saved")
    for _ in range(3):
        save(env, a, path, *options)
        assert a.running()
        a.wait_more_ticks(5)
    assert_one_story(a)
    # and can still be moved
    b = env.guest("b", incoming=True, append=BUSY)
    env.move(a, b)
    b.wait_more_ticks(5)
    assert_one_story(a, b)


def test_quit_ends_qemu(env):
    a = env.guest("a", append=BUSY)
    a.wait_tick(10)
    save(env, a, os.path.join(env.dir, "vm.mapped"), "--quit")
    wait_until("end of QEMU", lambda: not a.alive())


def test_a_paused_vm_is_saved_and_stays_paused(env):
    a = env.guest("a", append=BUSY)
    a.wait_tick(10)
    a.ask("stop")
    path = os.path.join(env.dir, "vm.mapped")
    save(env, a, path, "--live")
    assert a.status() == "paused"
    b = env.plain("b", incoming="defer", append=BUSY)
    b.wait_up()
    b.set("mapped-ram")
    b.load("file:" + path)
    assert b.status() == "paused"
    b.ask("cont")
    b.wait_more_ticks(5)
    assert_one_story(a, b)


def test_file_size_is_bounded_however_much_the_guest_dirties(env):
    a = env.guest("a", append="gw.tick=20 gw.dirty=64:0")
    a.wait_tick(20)
    path = os.path.join(env.dir, "vm.mapped")
    g = env.godwit("save", a.name, path, "--live", "--json",
                   "--max-bandwidth", "200M", "--downtime-limit", "1ms",
                   "--max-passes", "10", "--stall-passes", "0")
    code = g.wait()
    if code != OK:  # ten passes were not enough: that is what was asked for
        assert g.result()["ram"]["dirty-sync-count"] >= 10
        assert nothing_left(path) and a.running()
        save(env, a, path, "--live", "--downtime-limit", "2s")
    ram, more = 256 << 20, 64 << 20  # room for ROMs and tables
    assert os.stat(path).st_size < ram + more


def test_cancel_leaves_the_vm_running_and_no_file(env):
    a = env.guest("a", append=BUSY)
    a.wait_tick(20)
    path = os.path.join(env.dir, "vm.mapped")
    for options in ("--live", "--max-bandwidth", "1M"), ("--live=off",):
        g = env.godwit("save", a.name, path, "--json", *options)
        if len(options) > 1:
            wait_until("progress", lambda: [
                e for e in g.events() if e["ram"]["transferred"] > 100000])
        else:
            wait_until("a first event", g.events)
        g.kill(signal.SIGINT)
        assert g.wait() in (CANCELLED, *([OK] if len(options) == 1 else []))
        wait_until("the VM running", a.running)
        if g.proc.returncode == CANCELLED:
            assert nothing_left(path)
    a.wait_more_ticks(5)
    assert_one_story(a)


def test_a_killed_save_leaves_the_vm_running(env):
    a = env.guest("a", append=BUSY)
    a.wait_tick(20)
    path = os.path.join(env.dir, "vm.mapped")
    for options in ("--live", "--max-bandwidth", "1M"), ():
        g = env.godwit("save", a.name, path, "--json", *options)
        wait_until("work", lambda: len(g.events()) > 2)
        g.kill()
        g.wait()
        wait_until("the VM running", a.running)
        assert not os.path.exists(path) or not options
    a.wait_more_ticks(5)
    save(env, a, path, "--live")
    assert_one_story(a)


def test_no_room_is_said_and_the_vm_goes_on(env):
    a = env.guest("a", append=BUSY)
    a.wait_tick(10)
    for path in "/dev/full", os.path.join(env.dir, "no", "such", "vm.mapped"):
        g = env.godwit("save", a.name, path, "--format", "stream")
        assert g.wait() == FAILED, g.stderr()
        assert path in g.stderr()
        assert a.running()
    a.wait_more_ticks(5)
    assert_one_story(a)


def test_options_of_others_are_unknown(env):
    g = env.godwit("save", "a", "x", "--verify")
    assert g.wait() == USAGE and "--verify" in g.stderr()
    g = env.godwit("save", "a", "x", "--set", "verify=on")
    assert g.wait() == USAGE


# --- send ---------------------------------------------------------------------

@pytest.mark.parametrize("fmt", ["mapped-ram", "stream"])
def test_send_a_file_into_a_plain_qemu(env, fmt):
    kw = dict(append=BUSY, extra=RICH)
    a = env.guest("a", **kw)
    a.wait_tick(20)
    path = os.path.join(env.dir, "vm.saved")
    save(env, a, path, "--live", "--stop", "--format", fmt)
    b = env.plain("b", incoming="defer", **kw)
    g = env.godwit("send", path, b.listen(), "--json")
    assert g.wait() == OK, g.stderr()
    b.wait_more_ticks(10)
    assert_one_story(a, b)


# --- live into a plain QEMU ---------------------------------------------------

def to_qemu(env, a, uri, *options):
    return env.migrate(a, uri, "--to-qemu", *options)


@pytest.mark.parametrize("pair", ["10.0-10.0", "10.0-7.2", "7.2-10.0",
                                  "10.0-11.1", "11.1-10.0"])
def test_live_into_a_plain_qemu(env, pair):
    source, dest = pair.split("-")
    need(source, dest)
    kw = dict(append=BUSY, machine=PC, extra=RICH)
    a = env.guest("a", version=source, **kw)
    b = env.plain("b", incoming="defer", version=dest, **kw)
    a.wait_tick(20)
    g = to_qemu(env, a, b.listen())
    assert g.wait() == OK, g.stderr() + env.read("b.qemu")
    assert g.result()["status"] == "completed"
    assert a.status() == "postmigrate"
    b.wait_more_ticks(10)
    assert_one_story(a, b)


def test_a_destination_with_another_machine_refuses(env):
    a = env.guest("a", append=BUSY, machine="pc-i440fx-10.0")
    b = env.plain("b", incoming="defer",
                  machine="pc-i440fx-9.0")
    a.wait_tick(10)
    g = to_qemu(env, a, b.listen())
    assert g.wait() in (REFUSED, FAILED), g.stderr()
    assert "runs on here" in g.stderr()
    a.wait_more_ticks(5)
    assert_one_story(a)


def test_a_destination_without_a_device_refuses_before_it_is_too_late(env):
    a = env.guest("a", append=BUSY, extra=("-device", "virtio-rng-pci"))
    b = env.plain("b", incoming="defer", append=BUSY)
    a.wait_tick(10)
    g = to_qemu(env, a, b.listen())
    assert g.wait() == REFUSED, g.stderr()
    assert "stderr says why" in g.stderr()
    wait_until("the VM running", a.running)
    a.wait_more_ticks(5)
    assert_one_story(a)


def swallowing_relay(uri, keep):
    """Forwards to @uri, and back only the first @keep bytes of the answers.
    Where it listens."""
    port = int(uri.rsplit(":", 1)[1])
    listener = socket.create_server(("127.0.0.1", 0))

    def pump(src, dst, limit):
        while data := src.recv(65536):
            if limit is not None:
                data, limit = data[:limit], max(0, limit - len(data))
            if data:
                dst.sendall(data)

    def serve():
        near = listener.accept()[0]
        far = socket.create_connection(("127.0.0.1", port))
        threading.Thread(target=pump, args=(far, near, keep),
                         daemon=True).start()
        pump(near, far, None)

    threading.Thread(target=serve, daemon=True).start()
    return f"tcp:127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("keep", [0, 16])
def test_a_relay_that_swallows_answers_makes_no_two(env, keep):
    """PONGs are 8 bytes: with none the source never gives the VM up, with two
    the destination runs and the source cannot know."""
    a = env.guest("a", append=BUSY)
    b = env.plain("b", incoming="defer", append=BUSY)
    a.wait_tick(10)
    g = to_qemu(env, a, swallowing_relay(b.listen(), keep),
                "--handover-timeout", "2s")
    code = g.wait()
    if keep:
        assert code == UNCERTAIN, g.stderr()
        assert "godwit resume" in g.stderr()
        assert not a.running()
        b.wait_more_ticks(5)
        assert_one_story(a, b)
    else:
        assert code == FAILED, g.stderr()
        wait_until("the VM running", a.running)
        assert not b.alive() or b.status() == "inmigrate"


def paused_at(env, point, start):
    """What @start() starts stands at @point."""
    env.environ["GODWIT_TEST_PAUSE"] = point
    g = start()
    del env.environ["GODWIT_TEST_PAUSE"]
    wait_until(point, lambda: f"paused at {point}" in g.stderr())
    return g


@pytest.mark.parametrize("point", [
    "source:setup", "source:bulk", "source:stopped", "source:device",
    "source:ready", "source:committed"])
def test_a_godwit_killed_before_the_last_word_leaves_the_vm_here(env, point):
    """EOF was not said: the destination cannot run it, whatever it has."""
    a = env.guest("a", append=BUSY)
    b = env.plain("b", incoming="defer", append=BUSY)
    a.wait_tick(10)
    uri = b.listen()
    g = paused_at(env, point, lambda: to_qemu(env, a, uri))
    g.kill()
    g.wait()
    wait_until("the VM running", a.running)
    assert not b.running()
    a.wait_more_ticks(5)
    assert_one_story(a)
    assert not b.alive() or not b.ticks()


@pytest.mark.parametrize("point", ["source:stopped", "source:device"])
def test_a_save_killed_while_the_vm_stands(env, point):
    a = env.guest("a", append=BUSY)
    a.wait_tick(10)
    path = os.path.join(env.dir, "vm.mapped")
    g = paused_at(env, point, lambda: env.godwit("save", a.name, path))
    assert not a.running()
    g.kill()
    g.wait()
    wait_until("the VM running", a.running)
    assert nothing_left(path)
    a.wait_more_ticks(5)
    assert_one_story(a)


def test_memory_plugged_in_meanwhile_ends_the_save(env):
    """The table of blocks is not what the file begins with any more."""
    a = env.guest("a", append=BUSY,
                  extra=("-m", "256,slots=2,maxmem=1G"))
    a.wait_tick(10)
    path = os.path.join(env.dir, "vm.mapped")
    g = paused_at(env, "source:bulk", lambda: env.godwit(
        "save", a.name, path, "--live"))
    a.ask("object-add", **{
        "qom-type": "memory-backend-file", "id": "more", "size": 128 << 20,
        "share": True, "mem-path": os.path.join(env.dir, "more")})
    a.ask("device_add", driver="pc-dimm", id="dimm", memdev="more")
    os.kill(g.pid, signal.SIGCONT)
    assert g.wait() != OK
    assert "runs on here" in g.stderr() and nothing_left(path)
    wait_until("the VM running", a.running)
    a.wait_more_ticks(5)
    assert_one_story(a)


def test_verify_and_to_qemu_exclude_each_other(env):
    a = env.guest("a", append=BUSY)
    a.wait_tick(5)
    listener = socket.create_server(("127.0.0.1", 0))
    g = to_qemu(env, a, f"tcp:127.0.0.1:{listener.getsockname()[1]}",
                "--verify")
    assert g.wait() == USAGE and "--verify" in g.stderr()
    listener.close()
    assert a.running()
