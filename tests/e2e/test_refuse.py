# SPDX-License-Identifier: BSD-3-Clause
"""What must not work says so, on both ends, and harms neither VM: peers that
do not fit, peers that are no godwit, and peers that lie.

One pair of VMs goes through all of it (`pair`): the source must run on after
each test, the destination must wait with its RAM untouched, and now and then
a real move into that very destination must succeed.
"""
import contextlib
import ctypes
import json
import os
import re
import socket
import struct
import threading

import pytest

import harness
from harness import (CANCELLED, FAILED, INPUT, OK, REFUSED, USAGE, VERIFY,
                     Pair, qemu_path, said, wait_until)

TCP = "tcp:127.0.0.1:0"
PAGE = 4096
MIB = 1 << 20
RAM = 256 * MIB


@pytest.fixture(scope="module")
def place(module_env):
    return Pair(module_env)


@pytest.fixture
def pair(place):
    place.ready()
    return place


def assert_refused(tx, rx, code, message):
    """Both exit with @code and give the reason, one of them as the peer's."""
    assert tx.wait() == code, tx.stderr()
    assert rx.wait() == code, rx.stderr()
    for end in tx, rx:
        assert re.search(message, said(end)), end.stderr()
        assert end.result()["exit-code"] == code
        assert re.search(message, end.result()["error-desc"])


# --- godwit's protocol, written a second time -----------------------------

ERROR, EXTENTS, STOPPED, HASHES, HASHES_END, DEVICE, DEVICE_END, READY, GO, \
    RUNNING = range(1, 11)
START, PART, END = 1, 2, 3
ZERO, TABLE, WHOLE, EOS, CONTINUE = 2, 4, 8, 0x10, 0x20


def xxh3(data):
    lib = ctypes.CDLL("libxxhash.so.0")
    lib.XXH3_64bits.restype = ctypes.c_uint64
    lib.XXH3_64bits.argtypes = ctypes.c_char_p, ctypes.c_size_t
    return lib.XXH3_64bits(bytes(data), len(data))


def be64(n):
    return struct.pack(">Q", n)


def cstr8(s):
    return bytes([len(s)]) + s.encode()


def record(kind, payload=b"", flags=1, length=None):
    return struct.pack(">BBHI", 0x47, flags, kind,
                       len(payload) if length is None else length) + payload


def error(reason, fault=1, **more):
    return record(ERROR, json.dumps(
        {"fault": fault, "code": 5, "reason": reason, **more}).encode())


def footer(section=1):
    return struct.pack(">BI", 0x7e, section)


def table(*blocks, total=None):
    """The section that begins with the list of RAM blocks."""
    blocks = blocks or (("pc.ram", RAM),)
    total = sum(n for _, n in blocks) if total is None else total
    return struct.pack(">BI", START, 1) + cstr8("ram") + \
        struct.pack(">II", 0, 4) + be64(total | TABLE) + \
        b"".join(cstr8(name) + be64(n) for name, n in blocks) + \
        be64(EOS) + footer()


def ram(kind, *pages, section=1):
    return struct.pack(">BI", kind, section) + b"".join(pages) + be64(EOS) + \
        footer(section)


def page(addr, byte=b"\xaa", block="pc.ram"):
    return be64(addr | WHOLE) + cstr8(block) + byte * PAGE


def zero(addr, block="pc.ram", fill=0):
    return be64(addr | ZERO) + cstr8(block) + bytes([fill])


def hashes(first, *values, block="pc.ram"):
    return record(HASHES, cstr8(block) + be64(first) +
                  b"".join(map(be64, values)))


def extents(*ranges, block="pc.ram"):
    return record(EXTENTS, cstr8(block) + b"".join(
        be64(a) + be64(n) for a, n in ranges), flags=0)


def device(state, hash=None, length=None):
    return record(DEVICE, state) + record(DEVICE_END, be64(
        len(state) if length is None else length) + be64(
            xxh3(state) if hash is None else hash))


def hello(role, **change):
    h = {"role": role, "name": "fake", "godwit": "0.0.0",
         "vmm": "QEMU 10.0.2", "machine": "pc-i440fx-10.0", "arch": "x86_64",
         "running": True, "probe": False, "page-size": PAGE,
         "features": ["verify"], "required": [],
         "ram": [{"idstr": "pc.ram", "used-length": RAM, "page-size": PAGE}]}
    h.update(change)
    text = json.dumps({k: v for k, v in h.items() if v is not None}).encode()
    return b"GODWIT\r\n" + struct.pack(">II", 1, len(text)) + text


class Peer:
    """One end of a connection, in Python."""

    def __init__(self, sock):
        self.sock = sock
        sock.settimeout(60)
        self.file = sock.makefile("rb", 1 << 20)
        self.device = b""

    @classmethod
    def connect(cls, uri):
        host, port = uri.removeprefix("tcp:").rsplit(":", 1)
        return cls(socket.create_connection((host, int(port)), 60))

    def send(self, data):
        """The other may have had enough of it."""
        with contextlib.suppress(ConnectionError):
            self.sock.sendall(data)

    def read(self, n):
        data = self.file.read(n)
        if len(data) < n:
            raise EOFError
        return data

    def unpack(self, format):
        return struct.unpack(format, self.read(struct.calcsize(format)))

    def hello(self):
        assert self.read(8) == b"GODWIT\r\n"
        version, length = self.unpack(">II")
        assert version == 1 and length <= 65536
        return json.loads(self.read(length))

    def ram(self, kind):
        section, = self.unpack(">I")
        if kind == START:
            assert self.read(4) == b"\x03ram"
            self.unpack(">II")
        while True:
            head, = self.unpack(">Q")
            if head & EOS:
                break
            if head & TABLE:
                left = head & ~0xfff
                while left:
                    self.read(self.read(1)[0])
                    left -= self.unpack(">Q")[0]
                continue
            if not head & CONTINUE:
                self.read(self.read(1)[0])
            self.read(PAGE if head & WHOLE else 1)
        assert self.unpack(">BI") == (0x7e, section)

    def item(self):
        """The next one: (item byte or record's name, payload)."""
        kind = self.read(1)[0]
        if kind in (START, PART, END):
            self.ram(kind)
            return kind, None
        assert kind == 0x47, f"item 0x{kind:02x}"
        flags, kind, length = self.unpack(">BHI")
        payload = self.read(length)
        if kind == DEVICE:
            self.device += payload
        return f"record {kind}", payload

    def until(self, stage):
        """Read up to and with @stage: START ... or "record N"."""
        while True:
            kind, payload = self.item()
            if kind == stage:
                return payload

    def error(self):
        """What the other says last: the ERROR record, and then its end."""
        while True:
            kind, payload = self.item()
            if kind == f"record {ERROR}":
                break
        return json.loads(payload)

    def close(self):
        self.file.close()
        self.sock.close()


# --- peers that do not fit ------------------------------------------------

MISFITS = {
    "ram-size": (dict(memory=128), r"RAM block 'pc\.ram' has 256 MiB .* on the "
                 r"source and 128 MiB .* on the destination.* same -m"),
    "block-names": (dict(machine="pc,memory-backend=other", extra=[
        "-object", "memory-backend-ram,id=other,size=256M"]),
        r"the source has RAM block 'pc\.ram', the destination has not"),
    "machine": (dict(machine="q35"), r"machine type differs: 'pc-i440fx-10\.0' "
                r"on the source, 'pc-q35-10\.0' on the destination"),
}


@pytest.mark.parametrize("what", MISFITS)
def test_a_destination_that_differs_is_refused_by_both(pair, what):
    options, message = MISFITS[what]
    c = pair.new(incoming=True, **options)
    try:
        rx, at = pair.env.receive(c)
        check = pair.env.godwit("check", pair.a.name, at)
        assert check.wait() == REFUSED
        assert re.search(message, check.stdout()), check.stdout()
        assert rx.proc.poll() is None
        assert_refused(pair.env.migrate(pair.a, at), rx, REFUSED, message)
        assert c.status() == "inmigrate" and c.alive()
    finally:
        c.kill()
    pair.unharmed()


HELLOS = {
    "architecture": (dict(arch="aarch64"), REFUSED,
                     "CPU architecture differs: .*'aarch64'"),
    "page-size": ({"page-size": 65536}, REFUSED,
                  "page size differs: .*65536"),
    "block-page-size": (dict(ram=[{"idstr": "pc.ram", "used-length": RAM,
                                   "page-size": 2 * MIB}]), REFUSED,
                        "has pages of .*2097152.*--hugepages"),
    "one-block-more": (dict(ram=[
        {"idstr": "pc.ram", "used-length": RAM, "page-size": PAGE},
        {"idstr": "dimm0", "used-length": RAM, "page-size": PAGE}]), REFUSED,
        "has RAM block 'dimm0', the .* has not"),
    "required-feature": (dict(required=["time-travel"]), INPUT,
                         "requires 'time-travel', which this godwit"),
    "no-ram-list": (dict(ram=None), INPUT, "'ram' is not a list"),
    "negative-length": (dict(ram=[{"idstr": "pc.ram", "used-length": -4096,
                                   "page-size": PAGE}]), INPUT,
                        "RAM block 0 is malformed"),
    "long-name": (dict(name="x" * 1000), INPUT, "'name' is .* longer"),
}


@pytest.mark.parametrize("what", HELLOS)
def test_a_source_whose_greeting_does_not_fit(pair, what):
    change, code, message = HELLOS[what]
    rx, at = pair.env.receive(pair.b)
    peer = Peer.connect(at)
    peer.send(hello("source", **change))
    if code == REFUSED:
        assert peer.hello()["role"] == "destination"
        assert peer.error()["fault"] == code
    assert rx.wait() == code, rx.stderr()
    assert re.search(message, said(rx)), rx.stderr()
    peer.close()
    pair.unharmed()


@contextlib.contextmanager
def fake_destination(pair, *options):
    """godwit migrate and the connection it makes to us."""
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(60)
    tx = pair.env.migrate(pair.a, "tcp:127.0.0.1:%d" % server.getsockname()[1],
                          *options)
    peer = Peer(server.accept()[0])
    try:
        yield tx, peer
    finally:
        peer.close()
        server.close()


@pytest.mark.parametrize("what", HELLOS)
def test_a_destination_whose_greeting_does_not_fit(pair, what):
    change, code, message = HELLOS[what]
    with fake_destination(pair) as (tx, peer):
        assert peer.hello()["role"] == "source"
        peer.send(hello("destination", **change))
        assert tx.wait() == code, tx.stderr()
    assert re.search(message, said(tx)), tx.stderr()
    pair.unharmed()


def test_two_sources_and_two_destinations(pair):
    with fake_destination(pair) as (tx, peer):
        peer.send(hello("source"))
        assert tx.wait() == REFUSED
    assert "both sides are a source" in said(tx)
    rx, at = pair.env.receive(pair.b)
    peer = Peer.connect(at)
    peer.send(hello("destination"))
    assert rx.wait() == REFUSED
    assert "both sides are a destination" in said(rx)
    peer.close()
    pair.unharmed()


# --- no peer, or none that is a godwit ------------------------------------

def test_port_in_use(pair):
    with socket.create_server(("127.0.0.1", 0)) as s:
        rx = pair.env.godwit("receive", "tcp:127.0.0.1:%d" %
                             s.getsockname()[1], pair.b.name)
        assert rx.wait() == FAILED
    assert re.search(r"127\.0\.0\.1:\d+.*[Aa]ddress already in use", said(rx))
    pair.unharmed()


def test_nobody_listens(pair):
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
    for uri in f"tcp:127.0.0.1:{port}", f"unix:{pair.env.dir}/none":
        tx = pair.env.migrate(pair.a, uri)
        assert tx.wait() == FAILED
        assert re.search("[Cc]onnection refused|No such file", said(tx)), \
            tx.stderr()
        assert uri.split(":", 1)[1] in said(tx)
    pair.unharmed()


ANSWERS = {
    "http": (b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n",
             INPUT, r"not a godwit: its first bytes are 'HTTP/1\.1'"),
    "ssh": (b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n", INPUT,
            r"not a godwit: its first bytes are 'SSH-2\.0-'"),
    "garbage": (bytes(range(128, 256)) * 100, INPUT,
                r"not a godwit: its first bytes are '\.+'"),
    "silence": (None, FAILED, "no byte from .* for 700 ms"),
    "closing": (b"", FAILED, "no greeting from .*is 'godwit receive' listen"),
    "half-a-greeting": (hello("destination")[:60], FAILED,
                        "no greeting from .*is 'godwit receive' listen"),
    "version-2": (b"GODWIT\r\n" + struct.pack(">II", 2, 2) + b"{}", INPUT,
                  "version 2 of the protocol, this godwit version 1"),
    "huge": (b"GODWIT\r\n" + struct.pack(">II", 1, 1 << 31), INPUT,
             "greeting is 2147483648 bytes, the limit is 65536"),
    "no-json": (b"GODWIT\r\n" + struct.pack(">II", 1, 3) + b"{]}", INPUT,
                "greeting is not JSON"),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_a_destination_that_answers_with(pair, what):
    answer, code, message = ANSWERS[what]
    with fake_destination(pair, "--connect-timeout", "700ms") as (tx, peer):
        assert peer.hello()["name"] == pair.a.name
        peer.send(answer or b"")
        if answer is not None:
            peer.sock.shutdown(socket.SHUT_WR)
        assert tx.wait() == code, tx.stderr()
    assert re.search(message, said(tx)), tx.stderr()
    pair.unharmed()


@pytest.mark.parametrize("what", ["http", "garbage", "silence", "version-2",
                                  "huge", "no-json"])
def test_a_source_that_begins_with(pair, what):
    answer, code, message = ANSWERS[what]
    if what == "http":
        answer = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
        message = r"not a godwit: its first bytes are 'GET / HT'"
    rx, at = pair.env.receive(pair.b, TCP, "--idle-timeout", "700ms")
    peer = Peer.connect(at)
    peer.send(answer or b"")
    if answer is not None:
        peer.sock.shutdown(socket.SHUT_WR)
    assert rx.wait() == code, rx.stderr()
    assert re.search(message, said(rx)), rx.stderr()
    peer.close()
    pair.unharmed()


PLAIN = ["-accel", "tcg", "-m", "64", "-nodefaults", "-display", "none"]


def test_a_plain_qemu_as_destination(pair):
    qmp = os.path.join(pair.env.dir, "plain.qmp")
    plain = pair.env.start([qemu_path("10.0"), *PLAIN, "-incoming", "defer",
                            "-qmp", f"unix:{qmp},server=on,wait=off"],
                           "plain")
    q = wait_until("plain QEMU", lambda: connect_qmp(qmp))
    assert "return" in q("migrate-incoming", uri="tcp:127.0.0.1:0")
    port = q("query-migrate")["return"]["socket-address"][0]["port"]
    tx = pair.env.migrate(pair.a, f"tcp:127.0.0.1:{port}",
                          "--connect-timeout", "3s")
    assert tx.wait() == FAILED, tx.stderr()
    assert "A plain QEMU does not understand this" in said(tx)
    q.close()
    plain.kill()
    pair.unharmed()


def connect_qmp(path):
    try:
        return harness.Qmp(path)
    except OSError:
        return None


def test_a_plain_qemu_as_source_of_another_vm(pair):
    """It is understood (test_receive.py), but has 64 MiB; it runs on."""
    qmp = os.path.join(pair.env.dir, "plain.qmp")
    plain = pair.env.start([qemu_path("10.0"), *PLAIN, "-qmp",
                            f"unix:{qmp},server=on,wait=off"], "plain")
    q = wait_until("plain QEMU", lambda: connect_qmp(qmp))
    rx, at = pair.env.receive(pair.b)
    # Slowly: were all it has under way at once, it would call that success.
    assert "return" in q("migrate-set-parameters",
                         **{"max-bandwidth": 100000})
    assert "return" in q("migrate", uri=at)
    assert rx.wait() == REFUSED, rx.stderr()
    assert "'pc.ram' has 64.0 MiB" in said(rx) or \
        "'pc.ram' has 64 MiB" in said(rx)
    wait_until("failed migration of the plain QEMU",
               lambda: q("query-migrate")["return"]["status"] == "failed")
    wait_until("the plain QEMU running on",
               lambda: q("query-status")["return"]["status"] == "running")
    q.close()
    plain.kill()
    pair.unharmed()


# --- the wrong VM ---------------------------------------------------------

def test_the_wrong_vm(pair):
    a, b = pair.a.name, pair.b.name
    for args, code, message in (
            (["receive", TCP, a], USAGE,
             f"'{a}' does not wait for a migration, it is in state 'running'"
             f".*godwit run {a} --incoming"),
            (["migrate", b, "tcp:127.0.0.1:1"], USAGE,
             f"'{b}' waits for an incoming migration itself"),
            (["migrate", "nobody", "tcp:127.0.0.1:1"], USAGE,
             f"no VM named 'nobody' is running; there are: .*{a}"),
            (["receive", TCP, "nobody"], USAGE, "no VM named 'nobody'"),
            (["check", b, "tcp:127.0.0.1:1"], None, None)):
        g = pair.env.godwit(*args)
        if code is None:
            assert g.wait() != OK
            continue
        assert g.wait() == code, g.stderr()
        assert re.search(message, said(g)), g.stderr()
    pair.unharmed()


class VhostUser:
    """As much of a vhost-user backend as QEMU needs to take it for one."""

    def __init__(self, path):
        self.server = socket.socket(socket.AF_UNIX)
        self.server.bind(path)
        self.server.listen(4)
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self.serve, daemon=True,
                                 args=[self.server.accept()[0]]).start()

    @staticmethod
    def serve(s):
        with contextlib.suppress(OSError, struct.error):
            while True:
                head = s.recv(12, socket.MSG_WAITALL)
                kind, flags, size = struct.unpack("<III", head)
                if size:
                    s.recv(size, socket.MSG_WAITALL)
                if kind in (1, 15):  # GET_FEATURES, GET_PROTOCOL_FEATURES
                    s.sendall(struct.pack("<IIIQ", kind, 5, 8,
                                          1 << 30 if kind == 1 else 0))


def test_a_hot_plugged_vhost_user_netdev_is_refused_until_it_is_gone(pair):
    path = os.path.join(pair.env.dir, "vhost.sock")
    backend = VhostUser(path)
    pair.a.ask("chardev-add", id="vc", backend={"type": "socket", "data": {
        "addr": {"type": "unix", "data": {"path": path}}, "server": False}})
    pair.a.ask("netdev_add", type="vhost-user", id="vn", chardev="vc")
    try:
        for command in (["migrate", pair.a.name, "tcp:127.0.0.1:1"],
                        ["check", pair.a.name]):
            g = pair.env.godwit(*command)
            assert g.wait() == USAGE, g.stderr()
            assert re.search(
                f"'{pair.a.name}' cannot be moved: vhost-user: another process"
                " writes guest memory.*use tap,vhost=off", g.stdout() +
                g.stderr()), g.stderr()
    finally:
        pair.a.ask("netdev_del", id="vn")  # and its chardev
        backend.server.close()
    check = pair.env.godwit("check", pair.a.name)
    assert check.wait() == OK, check.stdout()
    pair.unharmed()


@pytest.mark.parametrize("device, message", [
    (["-device", "vfio-pci,host=0000:00:1f.0"], "vfio-pci: .*by DMA"),
    (["-device", "vhost-user-blk-pci,chardev=c"],
     "vhost-user-blk.*: another process writes guest memory"),
    (["-netdev", "vhost-user,id=n,chardev=c"],
     "vhost-user,.*: another process writes guest memory"),
])
def test_run_refuses_what_could_not_be_moved(pair, device, message):
    run = pair.env.godwit("run", "no", "--", qemu_path("10.0"), *PLAIN,
                          *device)
    assert run.wait() == FAILED
    assert re.search(message, run.stderr()), run.stderr()
    assert "no" not in pair.env.list()
    pair.unharmed()


# --- wrong options --------------------------------------------------------

WRONG = [
    (["--max-bandwidth", "fast"], "max-bandwidth 'fast'"),
    (["--max-bandwidth", "-1"], "max-bandwidth '-1'"),
    (["--downtime-limit", "3 apples"], "downtime-limit '3 apples'"),
    (["--downtime-limit", "3000s"], "downtime-limit 3000s is out of range: 0 "
     "to 2000s is possible"),
    (["--handover-timeout", "1ms"], "handover-timeout 1ms is out of range"),
    (["--max-passes", "1.5"], "max-passes '1.5' is not a whole number"),
    (["--tracker", "crystal-ball"], "tracker 'crystal-ball' is unknown, "
     "possible are auto, pagemap-scan, uffd-wp"),
    (["--verify=maybe"], "verify 'maybe' is neither on nor off"),
    (["--set", "verify"], "'verify' is not PARAMETER=VALUE; parameters are "),
    (["--set", "colour=blue"], "'colour=blue' is not PARAMETER=VALUE"),
    (["--set"], "--set needs a value"),
    (["--max-bandwidth"], "--max-bandwidth needs a value"),
    (["--frobnicate"], "unknown option --frobnicate"),
    (["-x"], "unknown option -x"),
    (["third"], "'third' is one argument too many"),
]
# Of no use for `receive`, which does not know them.
SOURCE_ONLY = ("--max-bandwidth", "--downtime-limit", "--max-passes",
               "--tracker")


@pytest.mark.parametrize("options, message", WRONG)
def test_wrong_option(pair, options, message):
    for args in (["migrate", pair.a.name, "tcp:127.0.0.1:1"],
                 ["receive", TCP, pair.b.name]):
        g = pair.env.godwit(*args, *options)
        assert g.wait() == USAGE, g.stderr()
        first = g.stderr().splitlines()[0]
        assert first.startswith(f"godwit {args[0]}: "), first
        if args[0] == "receive" and options[0] in SOURCE_ONLY:
            assert f"unknown option {options[0]}" in first, first
        else:
            assert message in first, first
        assert f"Try 'godwit help {args[0]}'." in g.stderr()
        assert not g.stdout()
    pair.unharmed()


@pytest.mark.parametrize("uri, message", [
    ("localhost:4444", "tcp:"), ("tcp:localhost", "HOST:PORT expected"),
    ("tcp:localhost:999999", "999999"), ("rdma:host:1", "rdma"),
    ("unix:", "unix"), ("fd:99", "descriptor 99 is not open"),
    ("fd:x", "fd:x"), ("exec:", "exec"), ("tcp:127.0.0.1:0", "port 0"),
])
def test_wrong_uri(pair, uri, message):
    tx = pair.env.godwit("migrate", pair.a.name, uri)
    assert tx.wait() == USAGE, tx.stderr()
    assert message in said(tx), tx.stderr()
    pair.unharmed()


def test_after_all_these_refusals_the_vm_moves_into_that_destination(pair):
    pair.move()


# --- sources that lie -----------------------------------------------------

ALL = ram(END)
T = table()
CUTS = {
    "nothing-after-the-greeting": b"",
    "half-a-table": T[:30],
    "half-a-page": T + ram(PART, page(0))[:2000],
    "half-a-record": T + record(DEVICE, b"x" * 100)[:50],
    "no-device-state": T + ALL,
    "no-end-of-the-device-state": T + ALL + record(DEVICE, b"x" * 100),
}
LIES = {
    "no-table": (ram(PART, page(0)), "item 0x02 in phase 0"),
    "end-first": (ram(END), "item 0x03 in phase 0"),
    "qemu-file-header": (b"QEVM\0\0\0\3", "item 0x51 in phase"),
    "continue-first": (T + ram(PART, be64(WHOLE | CONTINUE), b"\xaa" * PAGE),
                       "continues a block, but none was named"),
    "second-table": (T + T, "item 0x01 in phase 1"),
    "second-table-inside": (T + ram(PART, be64(RAM | TABLE), cstr8("pc.ram"),
                                    be64(RAM)), "a second RAM block table"),
    "table-too-small": (table(("pc.ram", RAM - PAGE)),
                        "'pc.ram' of .* is not the one that was agreed on"),
    "table-too-large": (table(("pc.ram", RAM * 2)),
                        "'pc.ram' of .* is not the one that was agreed on"),
    "table-does-not-add-up": (table(("pc.ram", RAM), total=RAM - PAGE),
                              "lengths must be multiples of 4096 and add up"),
    "table-of-nothing": (table(total=0), "impossible flags|0 RAM blocks"),
    "table-unaligned": (table(("pc.ram", RAM - 7), total=RAM),
                        "lengths must be multiples"),
    "table-without-block": (table(("other", RAM)), "'other' of .* is not the"),
    "block-twice": (table(("pc.ram", RAM), ("pc.ram", RAM)),
                    "RAM block 'pc.ram' is listed twice"),
    "one-block-more": (table(("pc.ram", RAM), ("x", PAGE)), "'x' of 4096"),
    "empty-block-name": (table(("", RAM)), "a RAM block name is empty"),
    "name-with-nul": (table(("pc\0ram", RAM)), "NUL byte"),
    "page-beyond-the-block": (T + ram(PART, page(RAM)),
                              "a RAM page at 0x10000000 of block 'pc.ram', "
                              "which has 268435456 bytes"),
    "page-at-the-end-of-the-world": (T + ram(PART, page((1 << 64) - PAGE)),
                                     "a RAM page at 0xfffffffffffff000"),
    "zero-page-beyond": (T + ram(PART, zero(RAM)), "a RAM page at 0x10000000"),
    "page-of-unknown-block": (T + ram(PART, page(0, block="vga.vram")),
                              "a RAM page for unknown block 'vga.vram'"),
    "zero-page-filled-with-1": (T + ram(PART, zero(0, fill=1)),
                                "filled with something else than 0"),
    "two-kinds-at-once": (T + ram(PART, be64(WHOLE | ZERO)), "impossible flags"
                          " 0xa"),
    "xbzrle-not-agreed": (T + ram(PART, be64(0x40) + cstr8("pc.ram")),
                          "RAM record 0x40 was not agreed on"),
    "no-footer": (T + struct.pack(">BI", PART, 1) + be64(EOS) +
                  b"\x00" * 64, "instead of its footer"),
    "footer-of-another": (T + struct.pack(">BI", PART, 1) + be64(EOS) +
                          footer(2), "id 2 instead of its footer"),
    "section-of-another": (T + ram(PART, page(0), section=2),
                           "section 'ram' id 2"),
    "ram-after-the-end": (T + ALL + ram(PART, page(0)), "item 0x02 in phase 2"),
    "unknown-mandatory-record": (T + record(99, b"abc"),
                                 "unknown record 99 from the source"),
    "record-with-unknown-flags": (T + record(99, b"abc", flags=2),
                                  "record 99 has unknown flags 0x02"),
    "record-of-2-GiB": (T + record(DEVICE, length=1 << 31),
                        "a record is 2147483648 bytes, the limit is"),
    "device-state-of-2-MiB-at-once": (T + ALL + record(DEVICE, length=2 * MIB),
                                      "2097152 bytes of device state after 0"),
    "extents-overlap": (T + extents((0, 8192), (4096, 8192)),
                        "extent|EXTENTS|range"),
    "extents-descend": (T + extents((8192, 4096), (0, 4096)),
                        "extent|EXTENTS|range"),
    "extents-beyond": (T + extents((RAM - PAGE, 2 * PAGE)),
                       "extent|EXTENTS|range"),
    "extents-wrap": (T + extents(((1 << 64) - PAGE, 2 * PAGE)),
                     "extent|EXTENTS|range"),
    "extents-unaligned": (T + extents((1, PAGE)), "extent|EXTENTS|range"),
    "extents-of-unknown-block": (T + extents((0, PAGE), block="x"),
                                 "record 2 names unknown block 'x'"),
    "extents-cut-short": (T + record(EXTENTS, cstr8("pc.ram") + b"x" * 9),
                          "extent|EXTENTS|range|bytes"),
    "hashes-before-the-end": (T + hashes(0, 1), "item 0x47 in phase 1"),
    "hashes-out-of-order": (T + ram(END, page(PAGE)) +
                            hashes(1, xxh3(b"\xaa" * PAGE)) + hashes(0, 0),
                            "come out of order"),
    "hashes-beyond": (T + ALL + hashes(RAM // PAGE - 1, 0, 0),
                      "page hashes at page 0xffff of block"),
    "hashes-beyond-the-world": (T + ALL + hashes((1 << 64) - 1, 0),
                                "page hashes at page 0xffffffffffffffff"),
    "hashes-of-half-a-page": (T + ALL + record(HASHES, cstr8("pc.ram") +
                                               be64(0) + b"1234"),
                              "12 bytes of page hashes"),
    "device-before-the-end": (T + device(b"x" * 100),
                              "ends before the RAM is complete"),
    "device-with-another-hash": (T + ALL + device(b"x" * 100, hash=1),
                                 "device state is damaged.*hash differs"),
    "device-with-another-length": (T + ALL + device(b"x" * 100, length=99),
                                   "device state is damaged: 100 bytes came, "
                                   "99 were sent"),
    "device-of-nothing": (T + ALL + device(b""), "0 bytes.* has no end"),
    "device-of-garbage": (T + ALL + device(b"\xde\xad\xbe\xef" * 5000),
                          "not a QEMU stream: it begins with 0xdeadbeef"),
    "device-of-another-machine": (
        T + ALL + device(
            b"QEVM\0\0\0\3\7\0\0\0\4q35!\5" +
            cstr8("configuration/capabilities") + b"\0\0\0\1\0\0\0\1" +
            cstr8("x-ignore-shared") + b"\4" + b"\0" * 64),
        "the device state is of a 'q35!' machine, this is a 'pc-i440fx-10.0'"),
    "device-with-ram-in-it": (
        T + ALL + device(b"QEVM\0\0\0\3\7\0\0\0\2pc" + b"\0" * 64),
        "made without capability x-ignore-shared"),
    "device-of-a-header-only": (T + ALL + device(b"QEVM\0\0\0\3"),
                                "has no end"),
    "go-before-anything": (T + record(GO, b"\1"), "unknown record 9"),
    "a-destinations-word": (T + record(READY), "unknown record 8"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_source_that_sends(pair, lie):
    """Exit 3, the reason on both ends, a QEMU that waits on, empty RAM."""
    stream, message = LIES[lie]
    rx, at = pair.env.receive(pair.b)
    peer = Peer.connect(at)
    peer.send(hello("source"))
    peer.hello()
    peer.send(stream)
    with contextlib.suppress(OSError):
        peer.sock.shutdown(socket.SHUT_WR)
    reason = peer.error()
    assert rx.wait() == INPUT, rx.stderr()
    assert re.search(message, said(rx)), rx.stderr()
    assert said(rx).startswith("godwit: " + reason["reason"])
    assert reason["fault"] == INPUT and reason["vm"] == "not-here"
    peer.close()
    pair.unharmed()


@pytest.mark.parametrize("cut", CUTS)
def test_a_source_that_ends_after(pair, cut):
    """Exit 1: a lost connection is not bad input."""
    rx, at = pair.env.receive(pair.b)
    peer = Peer.connect(at)
    peer.send(hello("source") + CUTS[cut])
    peer.sock.shutdown(socket.SHUT_WR)
    peer.hello()
    reason = peer.error()
    assert rx.wait() == FAILED, rx.stderr()
    assert re.search("lost the source .*: the stream ends at byte",
                     reason["reason"])
    assert said(rx).startswith("godwit: " + reason["reason"])
    assert reason["fault"] == FAILED and reason["vm"] == "not-here"
    peer.close()
    pair.unharmed()


def test_a_source_with_other_hashes_fails_the_verification(pair):
    for claim in ([hashes(0, 1)], [hashes(0, xxh3(b"\xbb" * PAGE))],
                  # Pages that no hash was sent for must be zero.
                  [], [hashes(1, 0)]):
        rx, at = pair.env.receive(pair.b)
        peer = Peer.connect(at)
        peer.send(hello("source") + T + ram(END, page(0)) + b"".join(claim) +
                  record(HASHES_END))
        peer.hello()
        assert peer.error()["fault"] == VERIFY
        assert rx.wait() == VERIFY
        assert "page 0x0 of RAM block 'pc.ram' has hash" in said(rx)
        peer.close()
    pair.unharmed()


def test_a_source_that_falls_silent(pair):
    for start in hello("source"), hello("source") + T, \
            hello("source") + T + ALL + record(DEVICE, b"x" * 100):
        rx, at = pair.env.receive(pair.b, TCP, "--idle-timeout", "700ms")
        peer = Peer.connect(at)
        peer.send(start)
        peer.hello()
        reason = peer.error()["reason"]
        assert rx.wait() == FAILED
        assert re.search("no byte from .* for 700 ms", reason), reason
        assert said(rx).startswith("godwit: " + reason)
        peer.close()
    pair.unharmed()


def test_optional_records_of_the_future_are_skipped(pair):
    rx, at = pair.env.receive(pair.b)
    peer = Peer.connect(at)
    peer.send(hello("source", future=["x"], features=["verify", "warp"]) +
              record(200, b"x" * 100000, flags=0) + T +
              record(201, flags=0) + error("enough of it", fault=CANCELLED))
    peer.hello()
    assert rx.wait() == CANCELLED
    assert said(rx).startswith("godwit: the source: enough of it")
    peer.close()
    pair.unharmed()


def test_what_a_peer_says_cannot_control_the_terminal(pair):
    rx, at = pair.env.receive(pair.b)
    peer = Peer.connect(at)
    peer.send(hello("source", name="\x1b]0;owned\x07") + T +
              error("\x1b[2Jbad\r\nthings\x9b", fault=99))
    peer.hello()
    assert rx.wait() == FAILED
    assert "the source: " in said(rx)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", rx.stderr())
    peer.close()
    pair.unharmed()


def test_after_all_these_lies_the_vm_moves_into_that_destination(pair):
    pair.move()


# --- destinations that lie ------------------------------------------------

@pytest.fixture(scope="module")
def device_state(place):
    """A true one, as the source's QEMU writes it."""
    place.ready()
    with fake_destination(place) as (tx, peer):
        peer.hello()
        peer.send(hello("destination"))
        peer.until(f"record {DEVICE_END}")
        peer.send(error("thank you", fault=FAILED))
        assert tx.wait() == FAILED
        assert said(tx).startswith("godwit: the destination: thank you")
        state = peer.device
    place.unharmed()
    assert state.startswith(b"QEVM") and len(state) > 10000
    return state


STAGES = {"greeting": None, "table": START, "first-pass": PART,
          "stopped": f"record {STOPPED}", "last-pass": END,
          "device-state": f"record {DEVICE}",
          "end-of-device-state": f"record {DEVICE_END}"}
ACTIONS = {
    "closes": (b"", None),
    "says-error": (error("not in the mood\n", fault=REFUSED), REFUSED),
    "sends-garbage": (b"\xffGARBAGE" * 100, INPUT),
    "sends-an-unknown-mandatory-record": (record(77), INPUT),
    "says-running": (record(RUNNING), INPUT),
    "says-ready-too-early": (record(READY), INPUT),
    "sends-a-record-of-2-GiB": (record(ERROR, length=1 << 31), INPUT),
    "sends-half-an-error": (error("x" * 100)[:50], None),
}
WORDS = {
    "closes": "closed|lost|reset|ends at byte",
    "says-error": "^godwit: the destination: not in the mood ;",
    "sends-garbage": "byte 0xff where a record should begin",
    "sends-an-unknown-mandatory-record":
        "unknown record 77 from the destination",
    "says-running": r"the destination sent record 10",
    "says-ready-too-early": "the destination sent record 8 too early",
    "sends-a-record-of-2-GiB": "a record is 2147483648 bytes",
    "sends-half-an-error": "closed|lost|reset|ends at byte",
}


@pytest.mark.parametrize("stage, action", [
    (s, a) for s in STAGES for a in ACTIONS
    # It is not too early then, or not for certain: the rest of the state may
    # be out by the time that the answer is in.
    if not (s.endswith("device-state") and a == "says-ready-too-early")])
def test_a_destination_that_after(pair, stage, action):
    """Whatever it does before GO, the VM runs on at the source."""
    data, code = ACTIONS[action]
    with fake_destination(pair) as (tx, peer):
        peer.hello()
        peer.send(hello("destination"))
        if STAGES[stage]:
            peer.until(STAGES[stage])
        peer.send(data)
        if code is None:
            peer.close()
        else:
            with contextlib.suppress(EOFError, OSError):
                while peer.sock.recv(1 << 20):
                    pass
        assert tx.wait() == (FAILED if code is None else code), tx.stderr()
    assert re.search(WORDS[action], said(tx)), tx.stderr()
    assert tx.result()["status"] == "failed"
    pair.unharmed()


def test_a_destination_that_never_gets_ready(pair):
    with fake_destination(pair, "--handover-timeout", "500ms") as (tx, peer):
        peer.hello()
        peer.send(hello("destination"))
        peer.until(f"record {DEVICE_END}")
        assert re.search("did not load the device state within 500 ms",
                         peer.error()["reason"])
        assert tx.wait() == FAILED
    assert "did not load the device state within 500 ms" in said(tx)
    pair.unharmed()


def test_a_destination_that_stops_reading(pair):
    with fake_destination(pair, "--idle-timeout", "700ms") as (tx, peer):
        peer.hello()
        peer.send(hello("destination"))
        assert tx.wait() == FAILED
    assert re.search("no byte taken by .* for 700 ms", said(tx)), tx.stderr()
    pair.unharmed()


def test_after_all_these_destinations_the_vm_moves(pair):
    pair.move()


# --- device states that QEMU itself has to refuse -------------------------

@pytest.mark.parametrize("qemu", ["7.2", "10.0", "11.1"], indirect=True)
def test_a_damaged_device_state_with_a_right_hash(pair, device_state, qemu):
    """The structure is right, a device's content is not. QEMU is fed with it,
    refuses, and does not run; from 9.1 on it lives on to say why."""
    # A CPU section of version 99: the name is followed by instance, version.
    at = device_state.index(b"\x03cpu") + 8
    state = device_state[:at] + struct.pack(">I", 99) + device_state[at + 4:]
    machine = "pc-i440fx-10.0" if qemu != "7.2" else "pc-i440fx-7.2"
    if qemu == "7.2":
        old, new = b"pc-i440fx-10.0", b"pc-i440fx-7.2"
        assert state.count(old) == 1
        i = state.index(old)
        state = state[:i - 4] + struct.pack(">I", len(new)) + new + \
            state[i + len(old):]
    c = pair.new(incoming=True, version=qemu, machine=machine)
    try:
        rx, at = pair.env.receive(c)
        peer = Peer.connect(at)
        peer.send(hello("source", machine=machine) + T + ALL + device(state))
        peer.hello()
        reason = peer.error()
        assert reason["vm"] == "not-here"
        assert rx.wait() == FAILED, rx.stderr()
        assert re.search("QEMU.* did not accept the device state|QEMU ended",
                         said(rx)), rx.stderr()
        assert said(rx).startswith("godwit: " + reason["reason"])
        peer.close()
        if qemu == "7.2":
            wait_until("end of QEMU 7.2", lambda: not c.alive())
        else:
            assert c.alive() and not c.running()
            again = pair.env.godwit("receive", TCP, c.name)
            assert again.wait() == USAGE
            assert "takes only one: end it and start it again" in said(again)
            assert pair.env.list()[c.name]["handover"]["phase"] == "failed"
    finally:
        c.kill()
    pair.unharmed()
