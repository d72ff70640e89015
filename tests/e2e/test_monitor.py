# SPDX-License-Identifier: BSD-3-Clause
"""`godwit monitor`: the prompt, and QMP in front of QEMU's own. The QMP tests
say the same things to a plain QEMU and to a godwit, and compare."""
import array
import contextlib
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import time

import pytest

from harness import (CANCELLED, FAILED, GODWIT, OK, USAGE, Godwit,
                     assert_continues, assert_one_story, wait_until)

WAIT = 60


class Client:
    """A QMP client that keeps everything it was told."""

    def __init__(self, path, negotiate=True):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(WAIT)
        wait_until(f"socket {path}", lambda: os.path.exists(path))
        self.sock.connect(path)
        self.data = b""
        self.events = []
        self.greeting = self.read()
        if negotiate:
            assert self("qmp_capabilities") == {"return": {}}

    def read(self):
        """The next message, of whatever kind."""
        while b"\n" not in self.data:
            more = self.sock.recv(65536)
            if not more:
                raise ConnectionError("closed")
            self.data += more
        line, self.data = self.data.split(b"\n", 1)
        assert line.endswith(b"\r"), line
        return json.loads(line)

    def reply(self):
        """The next message that is no event."""
        while True:
            m = self.read()
            if "event" not in m:
                return m
            assert set(m["timestamp"]) == {"seconds", "microseconds"}
            self.events.append(m)

    def raw(self, data, fds=()):
        if fds:
            self.sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS,
                                        array.array("i", fds))])
        else:
            self.sock.sendall(data)

    def __call__(self, command, fds=(), **arguments):
        message = {"execute": command}
        if arguments:
            message["arguments"] = {k.replace("_", "-") if k not in
                                    ("command_line",) else "command-line": v
                                    for k, v in arguments.items()}
        self.raw(json.dumps(message).encode(), fds)
        return self.reply()

    def do(self, command, **arguments):
        r = self(command, **arguments)
        assert "return" in r, (command, r)
        return r["return"]

    def caps(self, **on):
        return self("migrate-set-capabilities", capabilities=[
            {"capability": k.replace("_", "-"), "state": v}
            for k, v in on.items()])

    def hmp(self, line):
        return self.do("human-monitor-command", command_line=line)

    def status(self):
        return self.do("query-migrate").get("status")

    def wait_status(self, *wanted):
        return wait_until(f"state {wanted}", lambda:
                          self.status() in wanted and self.status(), 180)

    def wait_event(self, name, **data):
        """Until that event; all so far are kept."""
        def here():
            return any(e["event"] == name and
                       data.items() <= e.get("data", {}).items()
                       for e in self.events)
        end = time.monotonic() + 180
        while not here():
            assert time.monotonic() < end, (name, data, self.events)
            m = self.read()
            assert "event" in m, m
            self.events.append(m)

    def told(self):
        """Migration states and the others' names, in order."""
        return [e["data"]["status"] if e["event"] == "MIGRATION"
                else e["event"] for e in self.events
                if e["event"] != "MIGRATION_PASS"]

    def close(self):
        self.sock.close()


def front(env, guest, *options):
    """A godwit QMP server for @guest: it, and its path."""
    path = os.path.join(env.dir, f"front-{env.count}.sock")
    g = env.godwit("monitor", guest.name, "--qmp", "unix:" + path, *options)

    def listening():
        assert g.proc.poll() is None, g.stderr()
        return "listening" in g.stdout()
    wait_until("listening monitor", listening)
    return g, path


def port_of(client):
    a = client.do("query-migrate")["socket-address"][0]
    assert a["type"] == "inet" and a["host"] == "127.0.0.1"
    return f"tcp:127.0.0.1:{a['port']}"


# --- conformance ------------------------------------------------------------

def shape(v):
    """Names and types."""
    if isinstance(v, dict):
        return {k: shape(x) for k, x in v.items()}
    if isinstance(v, list):
        return [shape(x) for x in v[:1]]
    return "number" if isinstance(v, (int, float)) and \
        not isinstance(v, bool) else type(v).__name__


def assert_like(ours, theirs, where):
    """All that QEMU has, and of the same type; more is fine in an object."""
    assert type(ours) is type(theirs), (where, ours, theirs)
    if isinstance(theirs, dict):
        missing = set(theirs) - set(ours)
        assert not missing, (where, missing)
        for k, v in theirs.items():
            assert_like(ours[k], v, f"{where}.{k}")
    elif isinstance(theirs, list):
        assert bool(ours) == bool(theirs), (where, ours, theirs)
        for a, b in zip(ours, theirs):
            assert_like(a, b, where + "[]")
    else:
        assert ours == theirs, (where, ours, theirs)


# What a monitor may be told that is wrong; both answer each the same.
NOT_QMP = [
    b"{}", b"[]", b"17 ", b'"abc"', b"foo\n", b"}", b"]", b"@", b"\xff",
    b'{"foo": 5}', b'{"execute": 5}', b'{"execute" "query-status"}',
    b'{"execute": query-status}', b'{"execute": "query-status"]',
    b'{"execute": "query-status",}', b'{"execute": "query-status", "id": nul}',
    b'{"execute": "query-status", "arguments": []}',
    b'{"execute": "query-status", "arguments": {"x": 1}}',
    b'{"execute": "query-status", "foo": 1}',
    b'{"execute": "query-status", "execute": "query-name"}',
    b'{"execute": "query-migrate", "execute": "query-migrate"}',
    b'{"execute": "migrate", "arguments": {"uri": "a:b", "uri": "c:d"}}',
    b'{"execute": "query-status", "id": "\n"}',
    b'{"exec-oob": "query-status"}', b'{"exec-oob": "query-migrate"}',
    b'{"execute": "nope", "id": 1}', b'{"execute": "qmp_capabilities"}',
    b'{"execute": "query-migrate", "arguments": {"x": 1}, "id": [null]}',
    b'{"id": 01, "execute": "query-migrate"}',
]

# What is right, however it is spelled.
QMP = [
    b'{"execute": "query-status", "id": 1.5}',
    b"{'execute': 'query-status', 'id': [1, {'a': null}]}",
    b"{'execute': 'query-migrate', 'id': [1, {'a': null}]}",
    b'{"id": 18446744073709551615, "execute": "query-status"}',
    b'{"id": -9223372036854775808, "execute": "query-migrate"}',
    b'{"\\u0065xecute": "query-mi\\u0067rate", "id": "\\u00e9{"}',
    b'  {\r\n"execute"\t: "query-name"\n}', b'{"execute":"query-uuid","id":{}}',
]

# Commands and arguments of migration that are wrong, before anything moved.
WRONG = [
    ("migrate", {}), ("migrate", {"uri": 5}), ("migrate", {"uri": "foo:bar"}),
    ("migrate", {"uri": "tcp"}), ("migrate", {"uri": "tcp:foo"}),
    ("migrate", {"channels": []}), ("migrate", {"channels": 5}),
    ("migrate", {"uri": "tcp:1:2", "foo": 1}),
    ("migrate", {"uri": "tcp:127.0.0.1:1", "resume": True}),
    ("migrate", {"channels": [{"channel-type": "main"}]}),
    ("migrate", {"channels": [5]}),
    ("migrate", {"channels": [{"channel-type": "main", "addr": {
        "transport": "carrier-pigeon"}}]}),
    ("migrate-incoming", {"uri": "tcp:127.0.0.1:0"}),
    ("migrate-incoming", {}), ("migrate_cancel", {"x": 1}),
    ("migrate-continue", {}), ("migrate-continue", {"state": "foo"}),
    ("migrate-continue", {"state": "pre-switchover"}),
    ("migrate-set-capabilities", {}),
    ("migrate-set-capabilities", {"capabilities": 5}),
    ("migrate-set-capabilities", {"capabilities": [5]}),
    ("migrate-set-capabilities", {"capabilities": [{"capability": "foo",
                                                    "state": True}]}),
    ("migrate-set-capabilities", {"capabilities": [{"capability": "events"}]}),
    ("migrate-set-capabilities", {"capabilities": [{"capability": "events",
                                                    "state": "on"}]}),
    ("migrate-set-capabilities", {"capabilities": [{"capability": "events",
                                                    "state": True, "x": 1}]}),
    ("migrate-set-capabilities", {"capabilities": [{
        "capability": "switchover-ack", "state": True}]}),
    ("migrate-set-capabilities", {"capabilities": [{
        "capability": "zero-copy-send", "state": True}]}),
    ("migrate-set-parameters", {"foo": 1}),
    ("migrate-set-parameters", {"downtime-limit": "x"}),
    ("migrate-set-parameters", {"downtime-limit": 2000001}),
    ("migrate-set-parameters", {"downtime-limit": -1}),
    ("migrate-set-parameters", {"max-bandwidth": 1.5}),
    ("migrate-set-parameters", {"cpu-throttle-initial": 100}),
    ("migrate-set-parameters", {"cpu-throttle-increment": 0}),
    ("migrate-set-parameters", {"throttle-trigger-threshold": 0}),
    ("migrate-set-parameters", {"max-cpu-throttle": 5}),
    ("migrate-set-parameters", {"xbzrle-cache-size": 1000}),
    ("migrate-set-parameters", {"cpu-throttle-tailslow": 1}),
    ("migrate-set-parameters", {"multifd-channels": 0}),
    ("migrate-set-parameters", {"multifd-compression": "foo"}),
    ("migrate-set-parameters", {"announce-step": 0}),
]

# Of those, what QEMU says in other words than godwit.
OWN_WORDS = {"uri": ("foo:bar", "tcp", "tcp:foo"),
             "downtime-limit": (2000001, -1), "cpu-throttle-initial": (100,),
             "cpu-throttle-increment": (0,),
             "throttle-trigger-threshold": (0,), "max-cpu-throttle": (5,),
             "xbzrle-cache-size": (1000,),
             "multifd-compression": ("foo",)}


def own_words(command, arguments):
    return command == "migrate-incoming" or command == "migrate-continue" or \
        "zero-copy" in str(arguments) or \
        any(v in OWN_WORDS.get(k, ()) for k, v in arguments.items()
            if not isinstance(v, (list, dict)))


def mistakes(client):
    """Everything wrong: [(what, answer)]."""
    said = []
    for data in NOT_QMP + QMP:
        client.raw(data)
        # an id that is known to come last
        client.raw(b'\n{"execute": "query-name", "id": "end"}\n')
        answers = []
        while True:
            m = client.reply()
            if m.get("id") == "end":
                break
            answers.append(m)
        said.append((data, answers))
    for command, arguments in WRONG:
        client.raw(json.dumps({"execute": command, "arguments": arguments,
                               "id": 7}).encode())
        said.append(((command, arguments), [client.reply()]))
    return said


def test_what_is_wrong_is_answered_as_qemu_does(env):
    plain, mine = env.plain("plain"), env.guest("mine")
    plain.wait_up()
    mine.wait_up()
    _, path = front(env, mine)
    theirs, ours = Client(plain.test_qmp, False), Client(path, False)
    assert ours.greeting == theirs.greeting
    # Before the negotiation.
    for data in (b'{"execute": "query-status", "id": 7}',
                 b'{"execute": "query-migrate", "id": 7}', b"foo ", b"{}",
                 b'{"execute": "qmp_capabilities", "arguments": {"foo": 1}}'):
        theirs.raw(data)
        ours.raw(data)
        assert ours.reply() == theirs.reply(), data
    assert ours("qmp_capabilities", enable=["foo"])["error"]["class"] == \
        theirs("qmp_capabilities", enable=["foo"])["error"]["class"]
    assert ours("qmp_capabilities") == theirs("qmp_capabilities")
    for (what, a), (_, b) in zip(mistakes(ours), mistakes(theirs)):
        assert len(a) == len(b), (what, a, b)
        for x, y in zip(a, b):
            assert set(x) == set(y), (what, x, y)
            assert x.get("id") == y.get("id"), what
            if "error" in y:
                assert x["error"]["class"] == y["error"]["class"], what
            if "error" in y and (isinstance(what, bytes) or
                                 not own_words(*what)):
                assert x["error"] == y["error"], what
            elif "return" in y:
                assert_like(shape(x), shape(y), str(what))
    theirs.close()
    ours.close()


def session(source, dest, tmp):
    """One scripted life of two VMs, by their monitors: [(what, answer)] and
    the events of both."""
    log = []

    def say(c, command, **arguments):
        r = c(command, **arguments)
        log.append(((c is source and "source " or "dest ") + command, r))
        return r

    for c in (source, dest):
        say(c, "query-migrate")
        say(c, "query-migrate-capabilities")
        say(c, "query-migrate-parameters")
        say(c, "migrate-set-capabilities", capabilities=[
            {"capability": "events", "state": True},
            {"capability": "xbzrle", "state": True},
            {"capability": "return-path", "state": True}])
        say(c, "query-migrate-capabilities")
    say(dest, "migrate", uri="tcp:127.0.0.1:1")
    # one that fails
    say(source, "migrate", uri=f"unix:{tmp}/nobody")
    source.wait_status("failed")
    say(source, "query-migrate")
    # one that is cancelled
    say(source, "migrate-set-parameters", max_bandwidth=1 << 24,
        downtime_limit=10, xbzrle_cache_size=1 << 25, multifd_channels=4,
        announce_rounds=3)
    p = say(source, "query-migrate-parameters")["return"]
    assert (p["max-bandwidth"], p["downtime-limit"], p["xbzrle-cache-size"],
            p["multifd-channels"], p["announce-rounds"]) == \
        (1 << 24, 10, 1 << 25, 4, 3)
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as black:
        say(source, "migrate",
            uri=f"tcp:127.0.0.1:{black.getsockname()[1]}")
        say(source, "migrate", uri="tcp:127.0.0.1:1")
        say(source, "migrate_cancel")
        source.wait_status("cancelled")
    say(source, "query-migrate")
    say(source, "query-status")
    # one that is slow, is looked at, made faster, held and let go
    say(dest, "migrate-incoming", uri="tcp:127.0.0.1:0", exit_on_error=False)
    say(dest, "query-migrate")
    uri = port_of(dest)
    say(dest, "migrate-incoming", uri="tcp:127.0.0.1:0")
    say(source, "migrate-set-capabilities", capabilities=[
        {"capability": "pause-before-switchover", "state": True}])
    host, port = uri.split(":")[1:]
    say(source, "migrate", channels=[{"channel-type": "main", "addr": {
        "transport": "socket", "type": "inet", "host": host, "port": port}}])
    source.wait_status("active")
    wait_until("bytes", lambda: source.do("query-migrate")["ram"]["normal"])
    say(source, "query-migrate")
    say(source, "migrate-continue", state="pre-switchover")
    say(source, "migrate-set-parameters", max_bandwidth=1 << 40,
        downtime_limit=2000)
    source.wait_status("pre-switchover")
    say(source, "query-migrate")
    say(source, "query-status")
    say(source, "migrate-continue", state="active")
    say(source, "migrate-continue", state="pre-switchover")
    source.wait_status("completed")
    dest.wait_status("completed")
    say(source, "query-migrate")
    say(source, "query-status")
    dest.wait_event("RESUME")
    dest.wait_event("MIGRATION", status="completed")
    source.wait_event("MIGRATION", status="completed")
    say(dest, "query-migrate")
    say(dest, "query-status")
    say(source, "migrate", uri="tcp:127.0.0.1:1")
    say(source, "migrate_cancel")
    say(source, "query-migrate")
    return log, source.told(), dest.told()


# Where QEMU has a value that depends on the moment.
MOMENT = {"expected-downtime", "error-desc"}


def test_a_session_like_with_qemu(env):
    pa, pb = env.plain("pa"), env.plain("pb", incoming="defer")
    a, b = env.guest("a"), env.guest("b", incoming=True)
    for g in (pa, a):
        g.wait_tick(5)
    for g in (pb, b):
        g.wait_up()
    fa, path_a = front(env, a)
    fb, path_b = front(env, b)
    theirs = session(Client(pa.test_qmp), Client(pb.test_qmp), env.dir)
    ours = session(Client(path_a), Client(path_b), env.dir)
    for (what, x), (_, y) in zip(ours[0], theirs[0]):
        if "error" in y:
            assert x.get("error", {}).get("class") == y["error"]["class"], \
                (what, x, y)
            continue
        for r in (x, y):
            if isinstance(r["return"], dict):
                for k in MOMENT:
                    r["return"].pop(k, None)
        assert_like(shape(x), shape(y), what)
        if what.endswith("capabilities"):
            assert x == y, what
        if what.endswith(" query-migrate") and y["return"]:
            assert x["return"].get("status") == y["return"].get("status")
        if what.endswith("query-status"):
            assert x == y, what
    # One state after the other. Only that a peer who never answers keeps
    # godwit in setup, while QEMU begins to send.
    assert ours[1] == [s for s, after in zip(theirs[1], theirs[1][1:] + [""])
                       if (s, after) != ("active", "cancelling")]
    assert ours[2] == theirs[2]
    b.wait_more_ticks()
    assert_continues(a, b)
    for f, path in ((fa, path_a), (fb, path_b)):
        f.kill(signal.SIGTERM)
        assert f.wait() == OK, f.stderr()
        assert not os.path.exists(path)


# --- QMP, further -----------------------------------------------------------

def test_refused_capabilities_and_parameters_say_why(env):
    a = env.guest("a")
    a.wait_up()
    _, path = front(env, a, "--set", "events=on", "--set", "xbzrle=on",
                    "--channels", "3")
    c = Client(path)
    for cap in ("postcopy-ram", "x-colo", "x-ignore-shared", "mapped-ram",
                "background-snapshot", "dirty-limit", "postcopy-preempt"):
        e = c.caps(**{cap: True})["error"]
        assert e["class"] == "GenericError" and cap in e["desc"], e
        assert "return" in c.caps(**{cap: False})
    for name, value, why in (("tls-creds", "tls0", "no TLS"),
                             ("mode", "cpr-reboot", "leave godwit out"),
                             ("multifd-compression", "qatzip", "known here")):
        e = c("migrate-set-parameters", **{name: value})["error"]
        assert e["class"] == "GenericError" and why in e["desc"], e
    assert c.do("migrate-set-parameters", tls_creds="", mode="normal",
                multifd_compression="zstd") == {}
    on = {x["capability"] for x in c.do("query-migrate-capabilities")
          if x["state"]}
    assert on == {"events", "xbzrle", "multifd"}
    # what QEMU refuses together works together here; godwit's own names too
    assert "return" in c.caps(dirty_bitmaps=True, validate_uuid=True)
    assert {x["capability"] for x in a.ask("query-migrate-capabilities")
            if x["state"]} == {"dirty-bitmaps", "validate-uuid"}
    c.do("migrate-set-parameters", to_qemu=True, max_downtime=2000,
         tracker="uffd-wp", idle_timeout="20s", compress="zstd:3")
    p = c.do("query-migrate-parameters")
    assert p["to-qemu"] is True and p["max-downtime"] == 2000 and \
        p["tracker"] == "uffd-wp" and p["idle-timeout"] == 20000 and \
        p["compress"] == "zstd:3"
    assert "expected: boolean" in c("migrate-set-parameters",
                                    to_qemu=1)["error"]["desc"]
    # all of it or none
    e = c("migrate-set-parameters", max_bandwidth=7, announce_step=0)["error"]
    assert "announce" in e["desc"]
    assert c.do("query-migrate-parameters")["max-bandwidth"] == 0
    c.close()


def test_clients_share_it_and_wait_for_nobody(env):
    a = env.guest("a")
    a.wait_up()
    g, path = front(env, a)
    clients = [Client(path) for _ in range(16)]
    # One that asks a lot and reads nothing,
    deaf = clients[0]
    deaf.sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        for _ in range(20000):
            deaf.sock.send(b'{"execute": "query-qmp-schema"}\n' * 100)
    # one that is cut in the middle of a word,
    clients[1].raw(b'{"execute": "quer')
    clients[1].close()
    # and two that work.
    one, two = clients[2:4]
    one.caps(events=True)
    assert {"capability": "events", "state": True} in \
        two.do("query-migrate-capabilities")
    two.do("stop")
    two.wait_event("STOP")
    one.wait_event("STOP")
    two.do("cont")
    one.wait_event("RESUME")
    # The 17th waits until one leaves.
    late = socket.socket(socket.AF_UNIX)
    late.settimeout(WAIT)
    late.connect(path)
    clients[4].close()
    assert b"QMP" in late.recv(4096)
    # Long answers, and numbers as QEMU wrote them.
    assert len(one.do("query-qmp-schema")) > 100
    direct, via = a.qmp(), two
    assert via.do("query-command-line-options") == \
        direct("query-command-line-options")["return"]
    direct.close()
    # Another monitor of the same VM, and the same path.
    second = env.godwit("monitor", a.name, "--qmp", "unix:" + path + "2")
    assert second.wait() == FAILED and "another client" in second.stderr()
    third = env.godwit("monitor", "qmp=" + env.list()["a"]["status"] +
                       ",front=" + a.test_qmp, "--qmp", "unix:" + path)
    assert third.wait() == USAGE and "listens" in third.stderr()
    # QEMU ends, and with it its monitors.
    one.raw(b'{"execute": "quit"}')
    assert g.wait() == OK
    assert not os.path.exists(path)


def test_what_the_engine_does_is_not_seen(env):
    """Capabilities and events of godwit's own migration in QEMU stay hidden,
    also while another godwit moves the VM."""
    a, b = env.guest("a"), env.guest("b", incoming=True)
    a.wait_tick(5)
    _, path = front(env, a)
    c = Client(path)
    c.caps(events=True)
    before = c.do("query-migrate-capabilities")
    rx, uri = env.receive(b)
    tx = env.migrate(a, uri)
    while tx.proc.poll() is None:
        assert c.do("query-migrate-capabilities") == before
        time.sleep(0.02)
    assert tx.wait() == OK and rx.wait() == OK, tx.stderr()
    assert c.do("query-migrate") == {}
    assert c.told() == ["STOP"]
    assert "error" in c("migrate", uri="tcp:127.0.0.1:1")
    assert_continues(a, b)
    c.close()


def test_by_a_descriptor_and_to_a_plain_qemu(env):
    """As libvirt does: getfd, and migrate to fd:NAME."""
    a, b = env.guest("a"), env.plain("b", incoming="defer")
    a.wait_tick(5)
    uri = b.listen(return_path=True)
    _, path = front(env, a, "--to-qemu")
    c = Client(path)
    e = c("migrate", uri="fd:mine")["error"]
    assert "mine" in e["desc"]
    peer = socket.create_connection(uri.split(":")[1:])
    assert c("getfd", fdname="mine", fds=[peer.fileno()]) == {"return": {}}
    peer.close()
    c.do("migrate", uri="fd:mine")
    c.wait_status("completed")
    assert "error" in c("closefd", fdname="mine")
    b.wait_loaded()
    assert_continues(a, b)
    # add-fd goes through as well
    r, w = os.pipe()
    assert "fdset-id" in c("add-fd", fds=[r])["return"]
    os.close(r)
    os.close(w)
    c.close()


def test_hmp_in_qmp_and_an_end_in_the_middle(env):
    a, b = env.guest("a"), env.guest("b", incoming=True)
    a.wait_tick(5)
    rx, uri = env.receive(b)
    g, path = front(env, a)
    c = Client(path)
    assert c.hmp("migrate_set_speed 1m") == ""
    assert c.hmp("migrate -d nowhere").startswith("Error: ")
    assert c.hmp("migrate_set_capability events maybe").startswith("Error: ")
    assert "VM status: running" in c.hmp("info status")
    assert c.hmp(f"migrate {uri}") == ""
    c.wait_status("active")
    info = c.hmp("info migrate")
    assert "Migration status: active\r\n" in info and "total ram:" in info
    g.kill(signal.SIGTERM)
    assert g.wait() == OK, g.stderr()
    assert rx.wait() != OK
    a.wait_more_ticks()
    a.assert_healthy()
    assert a.running() and not os.path.exists(path)
    c.close()


# --- HMP --------------------------------------------------------------------

class Script(Godwit):
    """A monitor that is told things line by line."""

    def __init__(self, env, guest, *options):
        env.count += 1
        super().__init__(env, ["monitor", guest.name, *options],
                         f"script{env.count}", stdin=subprocess.PIPE)
        self.seen = 0

    def tell(self, line):
        self.proc.stdin.write(line.encode() + b"\n")
        self.proc.stdin.flush()

    def ask(self, line):
        """What it says to one command."""
        self.tell(line)
        self.tell("info version")  # QEMU's, and known to be one line

        def done():
            text = self.stdout()[self.seen:]
            m = re.search(r"^\d+\.\d+\.\d+.*\n", text, re.M)
            return m and (text[:m.start()], m.end())
        text, end = wait_until(f"answer to {line}", done)
        self.seen += end
        return text

    def end(self):
        self.proc.stdin.close()
        return self.wait()


def test_a_script_moves_a_guest(env):
    a, b = env.guest("a"), env.guest("b", incoming=True)
    a.wait_tick(5)
    b.wait_up()
    into = Script(env, b)
    assert into.ask("migrate_incoming tcp:127.0.0.1:0") == ""
    info = into.ask("info migrate")
    port = re.search(r"\ttcp:127.0.0.1:(\d+)\n", info)[1]
    s = Script(env, a)
    assert s.ask("info migrate") == ""
    assert s.ask("info status") == "VM status: running\n"
    caps = s.ask("info migrate_capabilities").splitlines()
    assert caps[0] == "xbzrle: off" and len(caps) == 22
    assert s.ask("migrate_set_capability xbzrle on") == ""
    assert "xbzrle: on\n" in s.ask("info migrate_capabilities")
    assert s.ask("migrate_set_capability xbzrle off") == ""
    for line, name, value in (
            ("migrate_set_speed 2", "max-bandwidth", "2097152 bytes/second"),
            ("migrate_set_speed 1g", "max-bandwidth",
             "1073741824 bytes/second"),
            ("migrate_set_parameter max-bandwidth 3", "max-bandwidth",
             "3145728 bytes/second"),
            ("migrate_set_cachesize 256m", "xbzrle-cache-size",
             "268435456 bytes"),
            ("migrate_set_downtime 0.5", "downtime-limit", "500 ms"),
            ("migrate_set_parameter downtime-limit 40", "downtime-limit",
             "40 ms"),
            ("migrate_set_parameter multifd-channels 5", "multifd-channels",
             "5"),
            ("migrate_set_parameter idle-timeout 20s", "idle-timeout",
             "20000 ms"),
            ("migrate_set_parameter tracker uffd-wp", "tracker", "uffd-wp"),
            ("migrate_set_parameter tracker auto", "tracker", "auto"),
            ("migrate_set_parameter cpu-throttle-initial 30",
             "cpu-throttle-initial", "30")):
        assert s.ask(line) == "", line
        assert f"{name}: {value}\n" in s.ask("info migrate_parameters"), line
    for line in ("migrate", "migrate nowhere", "migrate -z tcp:1:1",
                 "migrate -r tcp:1:1", "migrate_set_capability x-colo on",
                 "migrate_set_parameter max-bandwidth fast",
                 "migrate_set_parameter nonsense 1", "migrate_continue x",
                 "migrate_set_downtime 3000", "migrate_set_speed"):
        assert s.ask(line).startswith("Error: "), line
    assert "unknown command" in s.ask("no_such_command")
    assert "migrate [-d]" in s.ask("help") and "QEMU" in s.ask("help")
    # Slowly, then faster, then no more.
    assert s.ask("migrate_set_speed 1m") == ""
    assert s.ask(f"migrate -d tcp:127.0.0.1:{port}") == ""
    wait_until("active", lambda: "status: active" in s.ask("info migrate"))
    assert "in progress" in s.ask("migrate tcp:127.0.0.1:1")
    assert "in progress" in s.ask("migrate_set_capability xbzrle on")
    assert s.ask("migrate_cancel") == ""
    wait_until("cancelled", lambda: "status: cancelled" in
               s.ask("info migrate"))
    assert a.running()
    wait_until("end there", lambda: "status: cancelled" in
               into.ask("info migrate"))
    # Another one, to its end; another godwit may have the VM in between.
    check = env.godwit("check", "a")
    assert check.wait() == OK, check.stderr()
    assert into.ask("migrate_incoming tcp:127.0.0.1:0") == ""
    port = re.search(r"\ttcp:127.0.0.1:(\d+)\n", into.ask("info migrate"))[1]
    assert s.ask("migrate_set_speed 1") == ""
    assert s.ask(f"migrate -d tcp:127.0.0.1:{port}") == ""
    assert s.ask("migrate_set_speed 0") == ""
    assert s.ask("migrate_set_downtime 2") == ""
    # The end of the script waits for the end of the migration.
    assert s.end() == CANCELLED  # of the first one: nothing failed later
    assert "migrated in" in s.stdout(), s.stdout() + s.stderr()
    done = into.ask("info migrate")
    # of the first one, too
    assert into.end() == CANCELLED and "Migration status: completed" in done
    assert_continues(a, b)
    assert_one_story(a, b)


class Terminal:
    """A monitor as a person has it."""

    def __init__(self, env, guest):
        self.master, slave = pty.openpty()
        self.proc = subprocess.Popen(
            [GODWIT, "monitor", guest.name], stdin=slave, stdout=slave,
            stderr=slave, start_new_session=True,
            env=dict(env.environ, TERM="xterm", GODWIT_LOG="error"),
            preexec_fn=lambda: __import__("fcntl").ioctl(0, 0x540e, 0))
        env.procs.append(self.proc)
        os.close(slave)
        self.text = ""

    def type(self, keys):
        os.write(self.master, keys.encode())

    def wait_for(self, what, timeout=WAIT):
        """Until it shows @what, which is taken."""
        end = time.monotonic() + timeout
        while what not in self.text:
            assert time.monotonic() < end, (what, self.text)
            if select.select([self.master], [], [], 1)[0]:
                self.text += os.read(self.master, 4096).decode()
        before, self.text = self.text.split(what, 1)
        return before


def test_a_person_at_a_terminal(env):
    a, b = env.guest("a"), env.guest("b", incoming=True)
    a.wait_tick(5)
    rx, uri = env.receive(b)
    t = Terminal(env, a)
    t.wait_for("(godwit) ")
    t.type("info status\n")
    t.wait_for("VM status: running")
    t.wait_for("(godwit) ")
    t.type("rubbish\x03")  # Ctrl-C: another line
    t.wait_for("(godwit) ")
    t.type("migrate_set_speed 1m\n")
    t.wait_for("(godwit) ")
    t.type(f"migrate {uri}\n")
    t.wait_for("active")
    t.type("\x03")
    t.wait_for("cancelled")
    t.wait_for("(godwit) ")
    assert rx.wait() == CANCELLED, rx.stderr()
    a.wait_more_ticks()
    assert a.running()
    rx, uri = env.receive(b)
    # The history has it: up to the last line but one.
    t.type("migrate_set_speed 0\n")
    t.wait_for("(godwit) ")
    t.type(f"migrate {uri}\n")
    t.wait_for("migrated in", 180)
    t.wait_for("(godwit) ")
    t.type("\x1b[A\x1b[A\n")  # two up: the speed
    t.wait_for("(godwit) ")
    t.type("quit\n")
    assert t.proc.wait(WAIT) == OK
    os.close(t.master)
    assert rx.wait() == OK, rx.stderr()
    assert_continues(a, b)
