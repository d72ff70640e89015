# SPDX-License-Identifier: BSD-3-Clause
"""Zero pages and free pages: what need not move does not move, and where
nothing was sent the guest finds zeros."""
import os

import pytest

from harness import (OK, SMALL_PAGES, assert_continues, each_version,
                     ram_in_use, ram_path, wait_until)

MIB = 1 << 20
PAGE = 4096
REPORTING = ["-device", "virtio-balloon,free-page-reporting=on"]


def different_pages(a, b):
    """Numbers of the pages in which two VMs' RAM differs; holes are zeros and
    stay holes."""
    with open(ram_path(a), "rb") as fa, open(ram_path(b), "rb") as fb:
        size = os.fstat(fa.fileno()).st_size
        assert os.fstat(fb.fileno()).st_size == size
        return [at // PAGE for at in range(0, size, MIB)
                for x, y in [(fa.read(MIB), fb.read(MIB))] if x != y
                for at in range(at, at + MIB, PAGE)
                if x[at % MIB:at % MIB + PAGE] != y[at % MIB:at % MIB + PAGE]]


def litter(guest):
    """Its memory, full of what firmware may leave in a low megabyte and of
    bytes that are not zero."""
    page = b"RSD PTR ".ljust(512, b"\xa5") + b"_SM3_".ljust(PAGE - 512, b"\x5a")
    with open(ram_path(guest), "r+b") as f:
        size = os.fstat(f.fileno()).st_size
        for _ in range(0, size, MIB):
            f.write(page * (MIB // PAGE))
    assert ram_in_use(guest) == size


def move_paused(env, a, b, *options, there=()):
    rx, at = env.receive(b, "tcp:127.0.0.1:0", "--paused", *there)
    tx = env.migrate(a, at, *options)
    assert tx.wait() == OK and rx.wait() == OK, tx.stderr() + rx.stderr()
    return tx.result()


@pytest.mark.parametrize("promise", ["on", "off"])
@pytest.mark.parametrize("kind", ["file", "prealloc", "mem-lock"])
def test_zeros_over_litter(env, kind, promise):
    """The guest's pages are zero where the destination's memory is not: after
    the move they are, also where nothing was sent."""
    extra = {"file": [],
             "prealloc": ["-object", "memory-backend-ram,id=pc.ram,size=256M,"
                          "prealloc=on"],
             "mem-lock": ["-overcommit", "mem-lock=on"]}[kind]
    machine = "pc,memory-backend=pc.ram" if kind == "prealloc" else "pc"
    append = "gw.tick=20 gw.dirty=16:1000 gw.clear=64"
    a = env.guest("a", append=append, machine=machine, extra=extra)
    b = env.guest("b", append=append, machine=machine, extra=extra,
                  incoming=True)
    a.wait_tick(20)
    b.wait_up()
    litter(b)
    result = move_paused(env, a, b, "--verify",
                         there=["--skip-zero-pages=" + promise])
    ram = result["ram"]
    if promise == "on":
        assert ram["skipped"] * PAGE > 60 * MIB
    else:
        assert ram["skipped"] == 0 and ram["duplicate"] * PAGE > 60 * MIB
    assert result["verified-pages"] * PAGE == ram["total"]
    # Loading the device state writes a page or two of its own.
    assert len(different_pages(a, b)) <= 4
    if kind == "file":
        assert ram_in_use(b) <= result["populated-bytes"] + 4 * MIB
    else:  # what was allocated on purpose stays so
        assert ram_in_use(b) == ram["total"]
    b.ask("cont")
    assert_continues(a, b)


@pytest.mark.parametrize("qemu", each_version(), indirect=True)
def test_a_guest_that_reports_its_free_pages_is_small(env, qemu):
    """60 % of its memory written and freed: stock driver, stock QEMU."""
    kw = dict(append="gw.tick=20 gw.dirty=16:1000 gw.free=307", memory=512,
              extra=REPORTING, version=qemu)
    a, b = env.guest("a", **kw), env.guest("b", incoming=True, **kw)
    a.wait_tick(20)
    # Reports come two seconds after pages were freed, in pieces.
    wait_until("free pages reported",
               lambda: ram_in_use(a) < 200 * MIB, timeout=300, step=0.2)
    before = ram_in_use(a)
    result = env.move(a, b)
    assert_continues(a, b)
    assert result["ram"]["transferred"] < before + 50 * MIB
    assert result["unpopulated"] * PAGE > 250 * MIB
    assert result["saved-bytes"] > 250 * MIB and result["saved-time"] > 0
    assert ram_in_use(a) < before + 8 * MIB
    assert ram_in_use(b) < before + 50 * MIB


@pytest.mark.parametrize("options", [(), ("--channels", "2"),
                                     ("--tracker", "uffd-wp")])
def test_memory_that_is_given_back_during_the_move(env, options):
    """The balloon takes 200 MiB, most of them sent before, while it moves."""
    kw = dict(append="gw.tick=20 gw.dirty=4:500 gw.free=307", memory=512,
              extra=["-device", "virtio-balloon"],
              run_options=SMALL_PAGES if "uffd-wp" in options else [])
    a, b = env.guest("a", **kw), env.guest("b", incoming=True, **kw)
    a.wait_tick(20)
    before = ram_in_use(a)
    assert before > 300 * MIB
    rx, at = env.receive(b)
    tx = env.migrate(a, at, "--verify", "--max-bandwidth", "20M",
                     *options)
    wait_until("50 MiB sent", lambda: any(
        e.get("ram", {}).get("transferred", 0) > 50 * MIB
        for e in tx.events()))
    a.ask("balloon", value=312 * MIB)
    wait_until("balloon of 200 MiB", lambda: tx.proc.poll() is not None or
               a.ask("query-balloon")["actual"] <= 320 * MIB, timeout=300)
    assert tx.proc.poll() is None, "it was gone too soon to say anything"
    assert tx.wait() == OK and rx.wait() == OK, tx.stderr() + rx.stderr()
    result = tx.result()
    assert_continues(a, b)
    assert result["given-back"] * PAGE > 100 * MIB, result
    assert result["ram"]["transferred"] < before
    # Nothing of it was read here, which would allocate it again.
    assert ram_in_use(a) < before - 150 * MIB
