# SPDX-License-Identifier: BSD-3-Clause
"""Stored VMs in the other format: what godwit convert writes, plain QEMU loads,
and the guest goes on with counter and checksum. What godwit dump takes out is
the memory that QEMU itself shows."""
import json
import os
import re
import shutil
import signal
import subprocess
import time

import pytest

from harness import (CANCELLED, FAILED, GODWIT, INPUT, OK, USAGE,
                     assert_one_story, wait_until)

BUSY = dict(append="gw.tick=20 gw.dirty=16:2000 gw.zero=10")
RAM = 256 << 20
HIDDEN = range(0xa0000, 0x100000)  # video memory and firmware lie over it


def run(*args, code=OK, **kw):
    kw.setdefault("stdin", subprocess.DEVNULL)
    p = subprocess.run([GODWIT, *[str(a) for a in args]], capture_output=True,
                       timeout=180, **kw)
    assert p.returncode == code, (args, p.returncode, p.stdout, p.stderr)
    return p


class Stored:
    """A guest that a plain QEMU has migrated to a file while it ran; that
    QEMU stands still and still has the memory."""

    def __init__(self, env):
        self.env, self.count = env, 0
        self.guest = env.plain("source", **BUSY)
        self.guest.wait_tick(20)
        self.stream = self.path("vm.mig")
        self.guest.migrate("file:" + self.stream)

    def path(self, name):
        return os.path.join(self.env.dir, name)

    def goes_on(self, uri, *capabilities, source=None, **parameters):
        """In another plain QEMU, from the tick at which it left."""
        self.count += 1
        b = self.env.plain(f"dest{self.count}", incoming="defer", **BUSY)
        try:
            b.wait_up()
            b.set(*capabilities, **parameters)
            b.load(uri)
            b.wait_more_ticks(10)
            assert_one_story(source or self.guest, b)
        finally:
            b.kill()


@pytest.fixture(scope="module")
def stored(module_env):
    return Stored(module_env)


@pytest.fixture(scope="module")
def mapped(stored):
    """The same VM, converted."""
    path = stored.path("vm.mapped")
    out = json.loads(run("convert", stored.stream, path, "--json").stdout)
    assert out["ok"] and out["format"] == "mapped-ram"
    assert (out["normal"] + out["duplicate"]) * 4096 >= RAM
    assert out["bytes"] < os.path.getsize(path)  # sparse
    return path


# --- convert -----------------------------------------------------------------

@pytest.mark.parametrize("capabilities,parameters", [
    (("mapped-ram",), {}),
    (("mapped-ram", "multifd"), dict(multifd_channels=3)),
    (("mapped-ram", "multifd"), dict(multifd_channels=2, direct_io=True)),
], ids=["plain", "multifd", "direct-io"])
def test_plain_qemu_loads_what_became_mapped_ram(stored, mapped, capabilities,
                                                 parameters):
    stored.goes_on("file:" + mapped, *capabilities, **parameters)


@pytest.mark.parametrize("uri", ["file:{}", "exec:cat {}"])
def test_plain_qemu_loads_what_became_a_stream_again(stored, mapped, uri):
    path = stored.path("again.mig")
    run("convert", mapped, path, "--format", "stream")
    stored.goes_on(uri.format(path))


def test_pages_written_by_direct_io_and_threads_are_the_same(stored, mapped):
    path = stored.path("direct.mapped")
    run("convert", stored.stream, path, "--direct-io", "--channels", "4")
    run("diff", stored.stream, path)
    run("diff", mapped, path)
    stored.goes_on("file:" + path, "mapped-ram")
    os.unlink(path)


def test_a_mapped_ram_file_of_qemu_becomes_a_stream(stored):
    """Written by QEMU with threads, while its guest ran."""
    theirs, ours = stored.path("theirs.mapped"), stored.path("ours.mig")
    a = stored.env.plain("other", **BUSY)
    a.wait_tick(20)
    a.set("mapped-ram", "multifd", multifd_channels=2)
    a.migrate("file:" + theirs)
    run("convert", theirs, ours, "--format", "stream")
    run("diff", theirs, ours)
    stored.goes_on("file:" + ours, source=a)
    a.kill()
    os.unlink(theirs)


def test_the_first_migration_of_qemus_colo(stored):
    """A QEMU with x-colo says ENABLE_COLO first of all, which a QEMU without
    refuses; converted, its VM goes on anywhere. (As a primary QEMU 10.0 ends
    there; checkpoints behind it are in tests/unit/image_test.c.)"""
    theirs, ours = stored.path("colo.mig"), stored.path("no-colo.mig")
    a = stored.env.plain("colo", **BUSY)
    a.wait_tick(20)
    a.set("x-colo")
    a.migrate("exec:cat > " + theirs)
    info = json.loads(run("info", theirs, "--json").stdout)
    assert info["colo"] is True and info["bytes"]["colo"] == 0
    assert any("godwit convert" in line for line in info["loaded-by"])
    assert not json.loads(run("info", stored.stream, "--json").stdout)["colo"]
    text = run("info", theirs).stdout.decode()
    assert re.search("^colo +what a primary of QEMU's COLO sent", text, re.M)
    run("verify", theirs)
    with open(theirs, "ab") as f:  # CHECKPOINT_REQUEST, VMSTATE_SEND
        f.write(bytes([0, 0, 0, 1, 0, 0, 0, 3]))
    assert json.loads(run("info", theirs, "--json").stdout)["bytes"][
        "colo"] == 8
    run("verify", theirs)
    run("convert", theirs, ours, "--format", "stream")
    assert not json.loads(run("info", ours, "--json").stdout)["colo"]
    run("diff", theirs, ours)
    stored.goes_on("file:" + ours, source=a)
    a.kill()


def test_through_pipes(stored, mapped):
    path = stored.path("piped.mig")
    with open(stored.stream, "rb") as i, open(path, "wb") as o:
        cat = subprocess.Popen(["cat"], stdin=i, stdout=subprocess.PIPE)
        one = subprocess.Popen(
            [GODWIT, "convert", "-", "-", "--format", "stream"],
            stdin=cat.stdout, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        two = subprocess.Popen(["cat"], stdin=one.stdout, stdout=o)
        cat.stdout.close()
        one.stdout.close()
        said = one.stderr.read()
        assert [p.wait(120) for p in (cat, one, two)] == [0, 0, 0], said
    assert said.startswith(b"standard output: stream, ")
    run("diff", path, mapped)
    os.unlink(path)


def test_in_place(stored):
    path = stored.path("place")
    shutil.copyfile(stored.stream, path)
    run("convert", path, path)
    run("diff", stored.stream, path)
    assert json.loads(run("info", path, "--json").stdout)["format"] == \
        "mapped-ram"
    assert os.stat(path).st_mode & 0o777 == 0o600
    os.unlink(path)


def test_bad_input_leaves_no_output(stored):
    cut, out = stored.path("cut"), stored.path("out")
    with open(stored.stream, "rb") as f:
        head = f.read(3 << 20)
    with open(cut, "wb") as f:
        f.write(head)
    p = run("convert", cut, out, code=INPUT)
    assert b"cut" in p.stderr
    p = run("dump", cut, out, "--json", code=INPUT)
    assert json.loads(p.stdout)["code"] == INPUT
    assert not os.path.exists(out)


def test_no_room_is_said_with_numbers(stored):
    p = run("convert", stored.stream, "/dev/full", "--format", "stream",
            code=FAILED)
    assert re.search(rb"/dev/full: no room for \d+ bytes at \d+", p.stderr)


@pytest.mark.parametrize("args", [
    ("convert", "a", "b", "--format", "raw"),
    ("convert", "a", "b", "--format", "stream", "--direct-io"),
    ("convert", "a", "b", "--channels", "0"),
    ("convert", "a", "b", "--block", "x"),
    ("convert", "a"),
    ("convert", "a", "-", "--format", "stream", "--json"),
    ("dump", "a", "b", "--format", "stream"),
    ("dump", "a", "b", "c"),
])
def test_usage(args):
    assert b"Try 'godwit help" in run(*args, code=USAGE).stderr


def test_outputs_that_cannot_be(stored, tmp_path):
    for args in (["dump", stored.stream, "-"], ["convert", stored.stream, "-"],
                 ["convert", stored.stream, tmp_path],
                 ["dump", stored.stream, tmp_path / "x", "--format", "elf",
                  "--block", "pc.ram"],
                 ["dump", stored.stream, tmp_path / "x", "--block", "nope"]):
        p = run(*args, code=USAGE)
        assert p.stderr.startswith(b"godwit: "), p.stderr
    assert b"'pc.ram'" in p.stderr  # it says what there is
    run("convert", stored.stream, tmp_path / "no" / "file", code=FAILED)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("where", ["open", "write"])
def test_ctrl_c_while_a_pipe_stalls(stored, where, tmp_path):
    """Exit 7, whatever it waits for: a reader to come, one that reads no
    more."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    fd = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK) if where == "write" \
        else None
    p = subprocess.Popen([GODWIT, "convert", stored.stream, fifo, "--format",
                          "stream"], stdin=subprocess.DEVNULL,
                         stderr=subprocess.PIPE)
    time.sleep(2)
    assert p.poll() is None
    p.send_signal(signal.SIGINT)
    assert p.wait(30) == CANCELLED
    assert b"cancelled" in p.stderr.read()
    if fd is not None:
        os.close(fd)


@pytest.mark.parametrize("sig,code", [(signal.SIGINT, CANCELLED),
                                      (signal.SIGTERM, CANCELLED),
                                      (signal.SIGKILL, -signal.SIGKILL)])
def test_a_convert_that_ends_early_leaves_no_file(stored, tmp_path, sig, code):
    """Cancelled or killed as soon as it writes."""
    p = subprocess.Popen([GODWIT, "convert", stored.stream, tmp_path / "out",
                          "--channels", "1"], stdin=subprocess.DEVNULL,
                         stderr=subprocess.PIPE)
    folder = f"/proc/{p.pid}/fd"

    def writes():
        assert p.poll() is None, "it was faster than this test"
        for fd in os.listdir(folder):
            try:
                name = os.readlink(f"{folder}/{fd}")
                if name.startswith(str(tmp_path)) and \
                   os.stat(f"{folder}/{fd}").st_size > 0:
                    return True
            except OSError:
                pass
        return False
    wait_until("output", writes, step=0)
    p.send_signal(sig)
    got = p.wait(60)
    assert got == code, p.stderr.read()
    assert os.listdir(tmp_path) == []


# --- dump --------------------------------------------------------------------

@pytest.fixture(scope="module")
def memory(stored):
    """Physical memory, as the QEMU that stands still shows it."""
    path = stored.path("pmem")
    stored.guest.ask("pmemsave", val=0, size=RAM, filename=path)
    with open(path, "rb") as f:
        return f.read()


def visible(data):
    return data[:HIDDEN.start], data[HIDDEN.stop:]


@pytest.mark.parametrize("source", ["stream", "mapped"])
def test_raw_is_physical_memory(stored, mapped, memory, source):
    path = stored.path("raw")
    run("dump", stored.stream if source == "stream" else mapped, path)
    with open(path, "rb") as f:
        raw = f.read()
    assert len(raw) == RAM
    assert visible(raw) == visible(memory)
    assert os.stat(path).st_blocks * 512 < RAM  # holes where it is zero
    run("dump", mapped, path, "--block", "pc.ram")
    with open(path, "rb") as f:
        assert f.read() == raw  # all of it lies below 3 GiB
    os.unlink(path)


def test_a_rom_is_dumped_alone(stored, memory):
    path = stored.path("bios")
    run("dump", stored.stream, path, "--block", "pc.bios")
    with open(path, "rb") as f:
        bios = f.read()
    # The firmware's end is what the CPU starts at, below 1 MiB too.
    assert len(bios) >= 1 << 17 and bios[-16:-11] == memory[0xffff0:0xffff5]
    os.unlink(path)


def test_gdb_reads_an_elf_core_by_physical_addresses(stored, memory):
    if not shutil.which("gdb"):
        pytest.skip("gdb is missing: scripts/install-deps test")
    path = stored.path("core")
    run("dump", stored.stream, path, "--format", "elf")
    at = memory.index(b"Linux version ", 1 << 20)
    text = memory[at:at + 60].decode()
    out = subprocess.run(
        ["gdb", "-nx", "-batch", "-ex", f"core-file {path}", "-ex",
         f"x/s {at:#x}", "-ex", f"x/2gx {RAM - 16:#x}"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120)
    assert text in out.stdout, (out.stdout, out.stderr)
    last = [int.from_bytes(memory[RAM - i:RAM - i + 8 or None], "little")
            for i in (16, 8)]
    assert f"0x{last[0]:016x}\t0x{last[1]:016x}" in out.stdout, out.stdout
    head = subprocess.run(["readelf", "-lW", path], capture_output=True,
                          text=True, timeout=60).stdout
    assert re.search(rf"LOAD +0x0*1000 0x0+ 0x0+ 0x0*{RAM:x} ", head), head
    os.unlink(path)
