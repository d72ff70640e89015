# SPDX-License-Identifier: BSD-3-Clause
"""Stored VMs: files that real QEMUs write in every way they can, read by
godwit info, verify and diff and by the library, against the guest's memory and
against a second reader (simple_image.py)."""
import contextlib
import glob
import gzip
import json
import os
import signal
import struct
import subprocess
import time

import pytest

import harness
from harness import (BUILD, CANCELLED, GODWIT, INPUT, OK, USAGE, Qmp,
                     qemu_path, takes_direct_io, wait_until)
from simple_image import DATA, XBZRLE, ZERO, Image, firmware

CAT = os.path.join(BUILD, "tests", "image_cat")
MIB = 1 << 20
RAM = 8 * MIB
DIFFERENT = 1


def vectors():
    return os.environ.get("GODWIT_VECTORS") or \
        os.path.join(harness.TOP, "..", "shared", "vectors", "raw")


def run(*args, **kw):
    kw.setdefault("stdin", subprocess.DEVNULL)
    return subprocess.run([str(a) for a in args], capture_output=True,
                          timeout=120, **kw)


def godwit(*args, code=OK, **kw):
    p = run(GODWIT, *args, text=True, **kw)
    assert p.returncode == code, (args, p.returncode, p.stdout, p.stderr)
    return p


def info(path, *options, **kw):
    return json.loads(godwit("info", path, "--json", *options, **kw).stdout)


def memory(path):
    """Every block as lib/image reads it, one after the other."""
    p = run(CAT, path)
    assert p.returncode == 0, p.stderr
    return p.stdout


class Vm:
    """An 8 MiB PC that runs our firmware, its RAM in a file."""
    count = 0

    def __init__(self, folder, version, private=False, extra=()):
        self.folder, self.version = str(folder), version
        self.ram = os.path.join(self.folder, "ram")
        Vm.count += 1
        bios, qmp = (os.path.join(self.folder, f"{x}{Vm.count}") for x in
                     ("bios", "q"))
        firmware(bios)
        backend = f"memory-backend-ram,id=pc.ram,size={RAM}" if private else \
            f"memory-backend-file,id=pc.ram,size={RAM},share=on," \
            f"mem-path={self.ram}"
        self.proc = subprocess.Popen(
            [qemu_path(version), "-accel", "tcg", "-nodefaults",
             "-no-user-config", "-display", "none", "-machine",
             "pc,memory-backend=pc.ram", "-m", str(RAM // MIB), "-object",
             backend, "-bios", bios, "-qmp", f"unix:{qmp},server=on,wait=off",
             *extra],
            stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            wait_until("monitor", lambda: self.proc.poll() is not None or
                       os.path.exists(qmp))
            self.qmp = wait_until("answer", lambda: self.connect(qmp))
            time.sleep(0.4)  # let the firmware write
        except BaseException:
            self.close()
            raise

    @staticmethod
    def connect(path):
        with contextlib.suppress(OSError):
            return Qmp(path)

    def do(self, command, **arguments):
        reply = self.qmp(command, **{k.replace("_", "-"): v
                                     for k, v in arguments.items()})
        assert "return" in reply, (command, reply)
        return reply["return"]

    def on(self, *capabilities):
        self.do("migrate-set-capabilities", capabilities=[
            {"capability": c, "state": True} for c in capabilities])

    def status(self):
        return self.do("query-migrate").get("status")

    def save(self, uri, want="completed"):
        self.do("migrate", uri=uri)
        return self.wait(want)

    def wait(self, want="completed"):
        wait_until("end of the migration", lambda: self.status() in
                   ("completed", "failed"))
        got = self.do("query-migrate")
        assert got["status"] == want, got
        return got

    def truth(self):
        with open(self.ram, "rb") as f:
            return f.read()

    def physical(self):
        """All but the hole below 1 MiB, by QEMU itself."""
        parts = []
        for start, size in ((0, 0xa0000), (MIB, RAM - MIB)):
            path = os.path.join(self.folder, "pmem")
            self.do("pmemsave", val=start, size=size, filename=path)
            with open(path, "rb") as f:
                parts.append(f.read())
        return parts

    def close(self):
        if self.proc.poll() is None:
            os.kill(self.proc.pid, signal.SIGKILL)
        self.proc.wait()


@pytest.fixture
def new_vm(tmp_path):
    vms = []

    def new(version, **kw):
        if not qemu_path(version):
            pytest.skip(f"QEMU {version} could not be unpacked here")
        vms.append(Vm(tmp_path, version, **kw))
        return vms[-1]
    if not os.path.exists(CAT):
        pytest.skip(f"{CAT} is missing: run the tests by 'make check'")
    yield new
    for vm in vms:
        vm.close()


def check(path, truth, offset=0):
    """Both readers agree, pc.ram is @truth, verify finds it whole."""
    name = f"file:{path},offset={offset}" if offset else path
    with open(path, "rb") as f:
        simple = Image(f.read(), offset)
    assert memory(name) == b"".join(simple.ram.values())
    if truth is not None:
        assert simple.ram["pc.ram"] == truth
    said = json.loads(godwit("verify", name, "--json", "--channels",
                             3).stdout)
    assert said["ok"]
    got = info(name, "--pages")
    assert got["machine"] == simple.machine
    assert got["capabilities"] == simple.capabilities
    assert [(b["name"], b["length"]) for b in got["blocks"]] == \
        [(n, len(r)) for n, r in simple.ram.items()]
    assert got["offset"] == offset
    assert got["size"] == os.path.getsize(path)
    assert len(got["devices"]) == said["devices"] > 20
    assert got["devices"][-1]["name"] == "globalstate"
    for key, kind in (("pages", DATA), ("zero", ZERO), ("deltas", XBZRLE)):
        assert got["records"][key] == simple.kinds.get(kind, 0)
        assert sum(p[key] for p in got["passes"]) == got["records"][key]
    assert "trouble" not in got and "device-trouble" not in got
    return got, simple


NEW = ["10.0", "11.1"]


# --- what QEMU writes -----------------------------------------------------

@pytest.mark.parametrize("version", ["7.2", *NEW])
def test_stream(new_vm, tmp_path, version):
    vm = new_vm(version)
    path = tmp_path / "stream"
    vm.do("stop")
    low, high = vm.physical()
    vm.save(f"exec:cat >{path}")
    got, simple = check(path, vm.truth())
    ram = simple.ram["pc.ram"]
    assert ram[:len(low)] == low and ram[MIB:] == high
    assert got["format"] == "stream" and got["ended"]
    assert not got["records"]["deltas"]
    with open(path, "rb") as f:
        p = run(GODWIT, "verify", "-", stdin=f)
        assert p.returncode == OK and b"is whole" in p.stdout
    p = godwit("verify", path)
    assert "GB/s" in p.stdout and not p.stderr
    text = godwit("info", path).stdout
    for word in "pc.ram", "globalstate", "loaded by", got["machine"]:
        assert word in text


@pytest.mark.parametrize("version", NEW)
def test_stream_with_an_offset(new_vm, tmp_path, version):
    vm = new_vm(version)
    path = tmp_path / "stream"
    vm.save(f"file:{path},offset=0x3100")
    check(path, vm.truth(), 0x3100)
    p = godwit("verify", path, code=INPUT)
    assert "offset=12544" in p.stderr  # found, and said


# Not 7.2: under TCG it misses most of what this guest writes while it
# migrates, so that its streams are not its memory, with or without xbzrle.
@pytest.mark.parametrize("version", NEW)
def test_xbzrle_of_a_running_guest(new_vm, tmp_path, version):
    vm = new_vm(version)
    path = tmp_path / "stream"
    vm.on("xbzrle")
    for _ in range(10):
        vm.do("migrate-set-parameters", downtime_limit=1, max_bandwidth=60000,
              xbzrle_cache_size=4 * MIB)
        vm.do("migrate", uri=f"exec:cat >{path}")
        wait_until("deltas", lambda: vm.status() == "completed" or vm.do(
            "query-migrate").get("xbzrle-cache", {}).get("pages", 0) > 50)
        vm.do("migrate-set-parameters", downtime_limit=2000)
        vm.wait()
        got, _ = check(path, vm.truth())
        if got["records"]["deltas"] > 20:
            return
        vm.do("cont")  # it wrote nothing while QEMU looked: once more
    pytest.fail("ten migrations without deltas")


@pytest.mark.parametrize("offset", [0, 0x100])
@pytest.mark.parametrize("how", ["plain", "multifd", "direct-io"])
@pytest.mark.parametrize("version", NEW)
def test_mapped_ram(new_vm, tmp_path, version, how, offset):
    vm = new_vm(version)
    path = tmp_path / "mapped"
    vm.on("mapped-ram", *(["multifd"] if how != "plain" else []))
    if how == "direct-io":
        path.write_bytes(bytes(4096))
        if not takes_direct_io(path):
            pytest.skip(f"{tmp_path} does not take direct I/O")
        path.unlink()
        vm.do("migrate-set-parameters", direct_io=True)
    vm.save(f"file:{path},offset={offset}")
    got, _ = check(path, vm.truth(), offset)
    assert got["format"] == "mapped-ram" and got["ended"]
    assert got["allocated"] < RAM < got["size"]
    assert any("9.0" in x or "10.0" in x or "11.1" in x
               for x in got["loaded-by"])


@pytest.mark.parametrize("version", NEW)
def test_background_snapshot(new_vm, tmp_path, version):
    vm = new_vm(version, private=True)
    path = tmp_path / "stream"
    vm.do("stop")
    low, high = vm.physical()
    vm.on("background-snapshot")
    vm.save(f"file:{path}")
    got, simple = check(path, None)
    assert not got["ended"]
    ram = simple.ram["pc.ram"]
    assert ram[:len(low)] == low and ram[MIB:] == high


def test_mapped_background_snapshot_is_named(new_vm, tmp_path):
    vm = new_vm("10.0", private=True)
    path = tmp_path / "mapped"
    vm.on("background-snapshot", "mapped-ram")
    vm.save(f"file:{path}")
    assert sum(b["data"] for b in info(path)["blocks"]) == 0
    assert "background-snapshot" in info(path)["trouble"]
    p = godwit("verify", path, code=INPUT)
    assert "background-snapshot" in p.stderr and "all-zero" in p.stderr
    assert "trouble" in godwit("info", path).stdout


@pytest.mark.parametrize("version", ["7.2", *NEW])
def test_memory_in_another_file(new_vm, tmp_path, version):
    vm = new_vm(version)
    path = tmp_path / "stream"
    vm.on("x-ignore-shared")
    vm.save(f"exec:cat >{path}")
    got, _ = check(path, bytes(RAM))
    blocks = {b["name"]: b for b in got["blocks"]}
    assert blocks["pc.ram"]["outside"]
    assert not blocks["pc.bios"]["outside"] and blocks["pc.bios"]["mr-addr"]
    assert "note" in godwit("verify", path).stdout
    # nobody may take the holes of such a file for memory
    for args in (("convert", path, tmp_path / "x", "--format", "stream"),
                 ("dump", path, tmp_path / "x", "--format", "raw"),
                 ("send", path, f"exec:cat >{tmp_path / 'x'}")):
        assert "x-ignore-shared" in godwit(*args, code=INPUT).stderr
    assert not (tmp_path / "x").exists() or not (tmp_path / "x").stat().st_size


def test_mapped_ram_with_memory_in_another_file(new_vm, tmp_path):
    vm = new_vm("11.1")
    path = tmp_path / "mapped"
    vm.on("x-ignore-shared", "mapped-ram")
    vm.save(f"file:{path}")
    got, _ = check(path, bytes(RAM))
    blocks = {b["name"]: b for b in got["blocks"]}
    assert blocks["pc.ram"]["outside"] and blocks["pc.bios"]["data"]
    assert got["qemu"].startswith("11.")


def test_what_older_qemu_leaves_of_that_is_damage(new_vm, tmp_path):
    vm = new_vm("10.0")
    path = tmp_path / "mapped"
    vm.on("x-ignore-shared", "mapped-ram")
    vm.save(f"file:{path}", "failed")
    godwit("verify", path, code=INPUT)
    godwit("info", path, code=INPUT)


def test_unfinished_saves_are_damage(new_vm, tmp_path):
    """QEMU dies while it writes."""
    vm = new_vm("10.0")
    path = tmp_path / "mapped"
    vm.on("mapped-ram")
    vm.do("migrate-set-parameters", max_bandwidth=20000, downtime_limit=1)
    vm.do("migrate", uri=f"file:{path}")
    wait_until("a page", lambda: (vm.do("query-migrate").get("ram") or
                                  {}).get("normal", 0) > 3)
    vm.close()
    p = godwit("verify", path, code=INPUT)
    assert str(path) in p.stderr and "byte" in p.stderr
    assert "unfinished" in p.stderr


# --- diff -----------------------------------------------------------------

def test_diff(new_vm, tmp_path):
    """The same VM thrice: as a stream, loaded elsewhere and saved mapped,
    and after it ran on."""
    vm = new_vm("10.0")
    a, b, c = (tmp_path / x for x in "abc")
    vm.do("stop")
    vm.save(f"file:{a}")
    other = new_vm("10.0", private=True, extra=["-incoming", f"file:{a}"])
    wait_until("load", lambda: other.status() == "completed")
    other.on("mapped-ram")
    other.save(f"file:{b}")

    def run_on():
        wait_until("its end", lambda: vm.do("query-status")["status"] in
                   ("paused", "postmigrate"))
        vm.do("cont")
        time.sleep(0.5)
        vm.save(f"file:{c}")

    def diff(x, y):
        p = run(GODWIT, "diff", x, y, "--json", text=True)
        got = json.loads(p.stdout)
        assert p.returncode == (OK if got["equal"] else DIFFERENT)
        return got, {z["name"]: z for z in got["blocks"]}
    got, blocks = diff(a, b)
    assert all(z["equal"] * 4096 == z["length-first"]
               for z in blocks.values())
    assert got["equal-devices"] > 20
    for _ in range(5):
        run_on()
        got, blocks = diff(b, c)
        ram = blocks["pc.ram"]
        if ram["rewritten"]:
            break  # a counter's low byte fills that page: it may be the same
    assert not got["equal"] and ram["changed"] == 24
    assert 24 * 4 <= ram["delta-bytes"] <= 24 * 16
    assert ram["rewritten"] == 1  # 0x50
    assert ram["zeroed"] + ram["filled"] <= 1  # 0x58
    assert {"name": "timer", "instance": 0, "how": "other contents"} in \
        got["different-devices"]
    assert godwit("diff", a, a).stdout.endswith("equal\n")
    text = godwit("diff", b, c, code=DIFFERENT).stdout
    assert "pc.ram" in text and text.endswith("different\n")
    p = godwit("diff", b, c, "-q", code=DIFFERENT)
    assert not p.stdout and not p.stderr
    godwit("diff", a, tmp_path / "none", code=INPUT)


# --- without a VM ---------------------------------------------------------

def test_a_large_sparse_file_costs_its_bitmaps_only(tmp_path):
    """100 GiB of which three pages exist."""
    length, name, path = 100 << 30, b"pc.ram", tmp_path / "large"
    head = b"QEVM\0\0\0\3\x07\0\0\0\x04none\x05\x1a" \
        b"configuration/capabilities\0\0\0\1\0\0\0\1\x0amapped-ram" \
        b"\1\0\0\0\2\3ram\0\0\0\0\0\0\0\4" + \
        struct.pack(">Q", length | 4) + bytes([len(name)]) + name + \
        struct.pack(">Q", length)
    bitmap = len(head) + 28
    pages = (bitmap + length // 4096 // 8 + MIB - 1) // MIB * MIB
    with open(path, "wb") as f:
        f.write(head + struct.pack(">IQQQ", 1, 4096, bitmap, pages))
        for i in (0, 12345678, length // 4096 - 1):
            f.seek(bitmap + i // 8)
            f.write(bytes([1 << i % 8]))
            f.seek(pages + i * 4096)
            f.write(b"x" * 4096)
        f.seek(pages + length)
        eos = struct.pack(">Q", 16) + b"\x7e\0\0\0\2"
        f.write(eos + b"\3\0\0\0\2" + eos + b"\0")
    started = time.monotonic()
    got = info(path, "--pages")
    assert time.monotonic() - started < 5
    assert got["blocks"][0]["data"] == 3 == got["blocks"][0]["runs"]
    said = json.loads(godwit("verify", path, "--json").stdout)
    assert said["bytes"] == 3 * 4096 and said["data"] == 3


def test_usage():
    for args in (["info"], ["verify", "a", "b"], ["diff", "a"],
                 ["diff", "-", "-"], ["verify", "a", "--channels", "0"],
                 ["verify", "a", "--channels", "65"], ["info", "a", "-q"],
                 ["diff", "a", "b", "--pages"]):
        p = godwit(*args, code=USAGE)
        assert p.stderr.startswith(f"godwit {args[0]}: ")


def test_no_room_for_standard_input_names_the_remedy(tmp_path):
    environ = dict(os.environ, TMPDIR=str(tmp_path / "none"))
    p = godwit("info", "-", code=1, env=environ, stdin=None, input="QEVM")
    assert "TMPDIR" in p.stderr


def test_names_cannot_fool_a_terminal(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"QEVM\0\0\0\3\x07\0\0\0\x06a\x1b[31mb\0")
    for command in "info", "verify":
        p = run(GODWIT, command, path)
        assert b"\x1b" not in p.stdout + p.stderr
    path.write_bytes(b"QEVM\0\0\0\3\x07\0\0\0\x06a\x1b[31m"
                     b"\1\0\0\0\2\4\x1b[1m\0\0\0\0\0\0\0\4")
    p = run(GODWIT, "info", path)
    assert p.returncode == INPUT and b"\x1b" not in p.stderr


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_while_it_reads(sig):
    p = subprocess.Popen([GODWIT, "verify", "-"], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        p.stdin.write(b"QEVM")
        p.stdin.flush()
        time.sleep(0.5)
        p.send_signal(sig)
        assert p.wait(20) == CANCELLED
        assert p.stderr.read() == b"godwit: cancelled\n"
        assert not p.stdout.read()
    finally:
        p.kill()
        p.communicate()


# --- captures made before -------------------------------------------------

def captures():
    return sorted(glob.glob(os.path.join(vectors(), "*.mig")) +
                  glob.glob(os.path.join(vectors(), "*.mig.gz")))


@pytest.mark.parametrize("path", captures() or [None],
                         ids=os.path.basename if captures() else None)
def test_capture(path, tmp_path):
    if not path:
        pytest.skip(f"no captures in {vectors()} (GODWIT_VECTORS)")
    file = tmp_path / "capture"
    with (gzip.open if path.endswith(".gz") else open)(path, "rb") as f:
        file.write_bytes(f.read())
    simple = Image(file.read_bytes())
    assert memory(file) == b"".join(simple.ram.values())
    godwit("verify", file)
    assert info(file)["machine"] == simple.machine
