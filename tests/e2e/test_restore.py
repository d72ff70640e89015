# SPDX-License-Identifier: BSD-3-Clause
"""VMs in files: what a plain QEMU sends is stored, and what is stored, by
whomever, is restored into a VM of godwit and goes on there."""
import os
import re
import shlex

import pytest

import harness
from harness import (CANCELLED, FAILED, INPUT, OK, REFUSED, UNCERTAIN, USAGE,
                     assert_one_story, said, wait_until)
from test_receive import (MACHINE, TCP, Nest, awake, empty, halt, home,  # noqa: F401
                          inn, migration_over, nest, paused, pausing, source,
                          stayed, went_on)


def restore(nest, path, dest, *options, code=OK):
    g = nest.env.godwit("restore", path, dest.name, "--json", *options)
    assert g.wait() == code, g.stderr()
    return g


def fresh(nest, what, suffix="vm"):
    path = os.path.join(nest.env.dir, f"{what}.{suffix}")
    if os.path.exists(path):
        os.unlink(path)
    return path


# --- into a file ------------------------------------------------------------

@pytest.mark.parametrize("version, form, capabilities", [
    ("7.2", "stream", ["return-path"]),
    ("10.0", "stream", []),
    ("10.0", "mapped-ram", ["return-path", "xbzrle"]),
    ("11.1", "mapped-ram", []),
    ("11.1", "stream", ["return-path", "xbzrle"]),
], ids=lambda x: x if isinstance(x, str) else "+".join(x) or "none")
def test_what_a_plain_qemu_sends_is_stored_and_loaded_again(
        nest, version, form, capabilities):
    """By a plain QEMU, and by godwit."""
    a = nest.source(version)
    path = fresh(nest, "stored")
    rx, at = nest.env.receive(path, TCP, "--format", form)
    a.set(*capabilities, max_bandwidth=60 << 20)
    halt(a)
    a.migrate(at, wait=False)
    assert rx.wait() == OK, rx.stderr()
    assert migration_over(a) == "completed"
    assert a.status() == "postmigrate"
    check = nest.env.godwit("verify", path)
    assert check.wait() == OK, check.stderr()

    b = nest.plain_dest(version)
    if form == "mapped-ram":
        b.set("mapped-ram")
        b.load("file:" + path)
    else:
        b.load("exec:cat " + shlex.quote(path))
    awake(b)
    went_on(a, b)
    b.kill()

    c = nest.dest(version)
    restore(nest, path, c)
    awake(c)
    went_on(a, c)
    a.kill()
    c.kill()


@pytest.mark.parametrize("form", ["stream", "mapped-ram"])
def test_a_source_that_ends_leaves_no_file(nest, form):
    a = nest.source()
    before = set(os.listdir(nest.env.dir))
    path = fresh(nest, "none")
    rx, at = nest.env.receive(path, TCP, "--format", form)
    a.set("return-path", max_bandwidth=20 << 20)
    a.migrate(at, wait=False)
    wait_until("bytes", lambda: rx.events()[-1].get("ram", {}).get(
        "transferred", 0) > 4 << 20)
    a.kill()
    assert rx.wait() == FAILED, rx.stderr()
    assert "lost the source" in said(rx)
    left = set(os.listdir(nest.env.dir)) - before
    assert not [x for x in left if "none" in x], left


def test_a_file_that_was_there_stays_until_the_new_one_is_complete(nest,
                                                                   source):
    path = fresh(nest, "old")
    with open(path, "w") as f:
        f.write("old")
    rx, at = nest.env.receive(path)
    source.set("return-path", max_bandwidth=20 << 20)
    source.migrate(at, wait=False)
    wait_until("bytes", lambda: rx.events()[-1].get("ram", {}).get(
        "transferred", 0) > 4 << 20)
    rx.kill(15)
    assert rx.wait() == CANCELLED, rx.stderr()
    assert migration_over(source) == "failed"
    stayed(source)
    with open(path) as f:
        assert f.read() == "old"


def test_the_file_cannot_be_written(nest):
    g = nest.env.godwit("receive", TCP, "/proc/nowhere/file")
    assert g.wait() not in (OK, -11), g.stderr()
    assert "/proc/nowhere/file" in said(g)
    assert "listening" not in g.stdout()


def test_a_mistyped_vm_does_not_become_a_file(nest):
    before = set(os.listdir("."))
    g = nest.env.godwit("receive", TCP, "nosuchvm")
    assert g.wait() != OK
    assert "nosuchvm" in said(g)
    assert set(os.listdir(".")) == before
    g = nest.env.godwit("receive", TCP, "x", "--format", "elf")
    assert g.wait() == USAGE
    assert "only stream and mapped-ram" in said(g)
    assert not os.path.exists("x")


def test_a_godwit_source_is_not_stored(nest):
    a = nest.env.guest(nest.name())
    a.story = [a]
    a.wait_tick(3)
    path = fresh(nest, "godwit")
    rx, at = nest.env.receive(path)
    check = nest.env.godwit("check", a.name, at)
    assert check.wait() == REFUSED
    assert "(a file, no VM)" in check.stdout()
    assert rx.proc.poll() is None
    tx = nest.env.migrate(a, at)
    assert tx.wait() == REFUSED, tx.stderr()
    assert rx.wait() == REFUSED, rx.stderr()
    for end in tx, rx:
        assert "use 'godwit save' there" in said(end)
    assert not os.path.exists(path)
    stayed(a)
    a.kill()


# --- out of a file ----------------------------------------------------------

def save(nest, guest, how, path, offset=0):
    """What a plain QEMU writes; the guest stands still then."""
    halt(guest)
    if how == "stream":
        guest.migrate(f"exec:cat >{shlex.quote(path)}")
        return path
    guest.set("mapped-ram")
    if "multifd" in how:
        guest.set("multifd", multifd_channels=4)
    if "direct" in how:
        guest.set(direct_io=True)
    uri = "file:" + path + (f",offset={offset}" if offset else "")
    guest.migrate(uri)
    return uri if offset else path


@pytest.mark.parametrize("version, how, offset, options", [
    ("7.2", "stream", 0, []),
    ("10.0", "stream", 0, ["--channels", "1"]),
    ("10.0", "mapped-ram", 0, []),
    ("10.0", "mapped-ram", 4096, []),
    ("10.0", "mapped-ram+multifd", 0, ["--channels", "4"]),
    ("10.0", "mapped-ram+multifd+direct", 0, []),
    ("10.0", "mapped-ram+multifd+direct", 0, ["--direct-io"]),
    ("10.0", "mapped-ram", 512, ["--direct-io"]),
    ("10.0", "stream", 0, ["--direct-io"]),
    ("11.1", "mapped-ram", 0, ["--channels", "64"]),
    ("11.1", "mapped-ram+multifd", 1 << 20, []),
], ids=lambda x: "-".join(x) if isinstance(x, list) else str(x))
def test_a_file_of_a_plain_qemu(nest, version, how, offset, options):
    a = nest.source(version)
    path = fresh(nest, "qemu")
    path = save(nest, a, how, path, offset)
    b = nest.dest(version)
    g = restore(nest, path, b, *options)
    assert g.result()["status"] == "completed"
    assert nest.env.list()[b.name]["handover"] is None
    awake(b)
    went_on(a, b)
    a.kill()
    b.kill()


def test_standard_input(nest):
    path, booted = nest.template("10.0")
    b = nest.dest()
    with open(path, "rb") as f:
        p = nest.env.start([harness.GODWIT, "restore", "-", b.name], "stdin",
                           stdin=f)
        assert p.wait(120) == 0, nest.env.read("stdin")
    assert b.status() == "paused"  # it was stopped before it was saved
    b.ask("cont")
    b.wait_more_ticks(5)
    assert_one_story(booted, b)
    b.kill()


def test_restored_paused_and_moved_on(nest):
    """What was restored is a VM like any other, to the last page."""
    a = nest.source()
    path = save(nest, a, "mapped-ram", fresh(nest, "on"))
    b, c = nest.dest(), nest.dest()
    restore(nest, path, b, "--paused")
    assert b.status() == "paused"
    g = nest.env.godwit("resume", b.name, "--yes")
    assert g.wait() == OK
    went_on(a, b)
    a.story.append(b)
    nest.env.move(b, c)
    went_on(a, c)
    for g in a, b, c:
        g.kill()


# --- what does not work -----------------------------------------------------

@pytest.fixture(scope="module")
def files(nest):
    """A stream and a mapped-ram file of the same VM."""
    made = {}
    for how in "stream", "mapped-ram":
        a = nest.source()
        made[how] = save(nest, a, how, fresh(nest, "sound-" + how))
        a.kill()
    return made


def damaged(nest, path, change):
    with open(path, "rb") as f:
        data = bytearray(f.read())
    data = change(data) or data
    bad = fresh(nest, "bad")
    with open(bad, "wb") as f:
        f.write(data)
    return bad


def cut(data):
    return data[:len(data) // 2]


def cut_tail(data):
    return data[:-1000]


def no_header(data):
    data[0] = 0


def bad_device(data):
    at = data.rindex(b"\x0bglobalstate")
    data[at - 5] = 0x55


@pytest.mark.parametrize("how, change", [
    ("stream", cut), ("stream", cut_tail), ("stream", no_header),
    ("stream", bad_device), ("mapped-ram", cut_tail),
    ("mapped-ram", no_header), ("mapped-ram", bad_device),
], ids=lambda x: x if isinstance(x, str) else x.__name__)
def test_a_damaged_file_leaves_the_vm_waiting(nest, files, inn, how, change):
    bad = damaged(nest, files[how], change)
    g = restore(nest, bad, inn, code=INPUT)
    assert bad in said(g)
    assert empty(inn)


def test_files_that_do_not_fit(nest, files):
    for kw, message in ((dict(machine="q35"), "machine type differs"),
                        (dict(memory=128), "RAM block 'pc.ram' has 256 MiB")):
        b = nest.dest(**kw)
        g = restore(nest, files["mapped-ram"], b, code=REFUSED)
        assert message in said(g)
        assert empty(b)
        b.kill()


def test_a_file_without_ram(nest, inn):
    a = nest.env.guest(nest.name())
    a.wait_tick(3)
    path = fresh(nest, "noram")
    harness.PlainGuest.set(a, "x-ignore-shared")
    a.ask("migrate", uri=f"exec:cat >{shlex.quote(path)}")
    wait_until("saved", lambda: a.ask("query-migrate").get("status") ==
               "completed")
    a.kill()
    g = restore(nest, path, inn, code=INPUT)
    assert "x-ignore-shared" in said(g)
    assert empty(inn)


def test_a_vm_that_does_not_wait(nest, files):
    a = nest.env.guest(nest.name())
    a.wait_up()
    g = restore(nest, files["stream"], a, code=USAGE)
    assert "does not wait for a migration" in said(g)
    a.kill()


def test_no_such_file(nest, inn):
    g = restore(nest, "/nowhere/at/all", inn, code=FAILED)
    assert "/nowhere/at/all" in said(g)
    assert empty(inn)


@pytest.mark.parametrize("sig", [15, 9])
@pytest.mark.parametrize("point", ["dest:setup", "dest:bulk",
                                   "dest:ram-complete"])
def test_godwit_ends_while_it_restores(nest, files, point, sig):
    """Then the same VM can be restored into the same QEMU."""
    b = nest.dest()
    pausing(nest.env, point)
    g = nest.env.godwit("restore", files["mapped-ram"], b.name)
    pausing(nest.env, "")
    paused(g)
    os.kill(g.pid, sig)
    if sig == 15:
        os.kill(g.pid, 18)
        assert g.wait() == CANCELLED, g.stderr()
        assert empty(b)
    else:
        assert g.wait() == -sig
        assert b.status() == "inmigrate"
    restore(nest, files["stream"], b)
    b.wait_more_ticks(5)
    assert b.running()
    b.kill()
