# SPDX-License-Identifier: BSD-3-Clause
"""The command as a person and as a script meet it: help, what is printed
where, signals, two at a time, list and resume."""
import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import termios
import time

import pytest

import harness
from harness import (CANCELLED, FAILED, GODWIT, OK, REFUSED, UNCERTAIN,
                     USAGE, Pair,
                     assert_one_story, qemu_path, said, wait_until)

TCP = "tcp:127.0.0.1:0"
COMMANDS = ["run", "list", "check", "migrate", "monitor", "receive", "save", "send",
            "restore", "protect", "standby", "failover", "resume", "info", "verify", "diff",
            "convert", "dump",
            "help", "version"]
SLOW = ["--max-bandwidth", "4M"]  # a minute, if nobody ends it


@pytest.fixture(scope="module")
def place(module_env):
    return Pair(module_env)


@pytest.fixture
def pair(place):
    place.ready()
    return place


def run(*args, **kw):
    return subprocess.run([GODWIT, *args], stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=60, **kw)


# --- without a VM ---------------------------------------------------------

@pytest.mark.parametrize("command", COMMANDS)
def test_help_of(command):
    p = run("help", command)
    assert p.returncode == OK and not p.stderr
    assert p.stdout.startswith(f"usage: godwit {command}")
    assert max(map(len, p.stdout.splitlines())) < 100
    for option in "--help", "-h":
        q = run(command, option)
        assert (q.returncode, q.stdout, q.stderr) == (OK, p.stdout, "")


def test_help_lists_every_command_and_every_exit_code():
    p = run("help")
    assert p.returncode == OK and not p.stderr
    assert run("--help").stdout == p.stdout
    for command in COMMANDS:
        assert re.search(rf"^  {command} ", p.stdout, re.M), command
    text = " ".join(p.stdout.split())
    for code in range(9):
        assert re.search(rf"\b{code} \w", text), code


def test_help_has_every_parameter_of_a_command_with_its_default():
    for command in ("migrate", "receive", "save", "send", "protect",
                    "standby"):
        listed = re.search("parameters are (.*)", run(
            command, "a", "tcp:h:1", "--set", "x=1").stderr)[1].split(", ")
        assert len(listed) > 2
        text = run("help", command).stdout
        for name in listed:
            assert re.search(rf"^  --{name} .*\(.+\)$", text, re.M), name
        text = text[text.index("\nParameters"):]
        options = re.findall(r"^  --([a-z-]+) .*\(.+\)$", text, re.M)
        assert options == listed


def test_version():
    p = run("version")
    assert p.returncode == OK
    assert re.fullmatch(r"godwit \d+\.\d+\.\d+\S*\n", p.stdout)
    assert run("--version").stdout == run("-V").stdout == p.stdout


@pytest.mark.parametrize("args, message", [
    ([], "usage: godwit COMMAND"),
    (["fly"], "godwit: there is no command 'fly'"),
    (["help", "fly"], "there is no command 'fly'"),
    (["migrate"], "godwit migrate: the VM is missing"),
    (["migrate", "a"], "godwit migrate: the URI is missing"),
    (["receive"], "godwit receive: the URI is missing"),
    (["receive", "tcp::1"], "godwit receive: the VM is missing"),
    (["check"], "godwit check: the VM is missing"),
    (["check", "a", "tcp::1", "b"], "'b' is one argument too many"),
    (["check", "--fast", "a"], "unknown option --fast"),
    (["protect"], "godwit protect: the VM is missing"),
    (["protect", "a"], "godwit protect: the URI is missing"),
    (["protect", "a", "tcp::1", "b"], "'b' is one argument too many"),
    (["protect", "a", "tcp::1", "--timeout", "1s"],
     "unknown option --timeout"),
    (["protect", "a", "tcp::1", "--no-interval"],
     "unknown option --no-interval"),
    (["protect", "a", "tcp::1", "--no-fence=off"], "--no-fence=off"),
    (["protect", "a", "tcp::1", "--interval", "0"],
     "interval 0 is out of range: 1ms to 1h"),
    (["protect", "a", "tcp::1", "--no-fence", "--fence-after", "1s"],
     "leave one of them out"),
    (["standby"], "godwit standby: the URI is missing"),
    (["standby", "tcp::1"], "godwit standby: the VM is missing"),
    (["standby", "tcp::1", "a", "--no-fence"], "unknown option --no-fence"),
    (["standby", "tcp::1", "a", "--set", "interval=1s"],
     "parameters are handover-timeout"),
    (["failover"], "godwit failover: the NAME is missing"),
    (["failover", "a", "b"], "one VM at a time"),
    (["failover", "--now", "a"], "unknown option --now"),
    (["resume"], "godwit resume: the VM is missing"),
    (["resume", "a", "b"], "one VM at a time"),
    (["resume", "--now", "a"], "unknown option --now"),
    (["list", "a"], "godwit list: 'a': list takes no arguments"),
    (["list", "--long"], "unknown option --long"),
    (["run"], "NAME for the VM is missing"),
    (["migrate", "no/such", "tcp:h:1"], "no/such"),
])
def test_usage_error(args, message, tmp_path):
    p = run(*args, env=dict(os.environ, GODWIT_RUNTIME_DIR=str(tmp_path)))
    assert p.returncode == USAGE, p.stderr
    assert message in p.stderr and not p.stdout


def test_a_wrong_log_filter_is_said():
    p = run("list", env=dict(os.environ, GODWIT_LOG="loud"))
    assert p.returncode == USAGE
    assert p.stderr.startswith("godwit: GODWIT_LOG: ") and "loud" in p.stderr


def test_dry_run_prints_a_command_and_leaves_nothing(tmp_path):
    if not qemu_path("10.0"):
        pytest.skip("QEMU 10.0 could not be unpacked on this machine")
    p = run("run", "x", "--incoming", "--dry-run", "--", qemu_path("10.0"),
            "-m", "64", env=dict(os.environ,
                                 GODWIT_RUNTIME_DIR=str(tmp_path / "r")))
    assert p.returncode == OK, p.stderr
    line = p.stdout.splitlines()[-1]
    assert "LD_PRELOAD=" in line and "memory-backend-file" in line
    assert re.search(r" -incoming defer\b", line) and " -S" in line
    assert not (tmp_path / "r").exists() or not list((tmp_path / "r")
                                                     .iterdir())


# --- signals --------------------------------------------------------------

def everything(env):
    """What a move could leave behind: files, and processes of this test."""
    files = sorted(os.path.join(folder, f)
                   for folder, _, names in os.walk(env.rundir) for f in names)
    mine = f"GODWIT_RUNTIME_DIR={env.rundir}\0".encode()
    pids = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as f:
                if mine in f.read() + b"\0":
                    pids.add(int(pid))
        except OSError:
            pass
    return files, pids


def settings(guest):
    return (guest.ask("query-migrate-capabilities"),
            guest.ask("query-migrate-parameters"))


def wait_active(tx):
    """Until pages flow."""
    def active():
        assert tx.proc.poll() is None, tx.stderr()
        e = tx.events()
        return e and e[-1]["status"] == "active" and \
            e[-1]["ram"]["normal"] > 100
    wait_until("active migration", active)


@pytest.mark.parametrize("sig", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_signal_to_migrate_cancels_and_leaves_nothing(pair, sig):
    """Exit 7; the VM goes on here; the receiver says who cancelled."""
    a, b, env = pair.a, pair.b, pair.env
    before = everything(env), settings(a), settings(b)
    rx, at = env.receive(b, f"unix:{env.dir}/cancel.sock")
    tx = env.migrate(a, at, *SLOW)
    wait_active(tx)
    os.kill(tx.pid, getattr(signal, sig))
    assert tx.wait() == CANCELLED, tx.stderr()
    assert said(tx).startswith("godwit: cancelled"), tx.stderr()
    assert tx.result()["status"] == "cancelled"
    assert tx.result()["exit-code"] == CANCELLED
    assert rx.wait() == CANCELLED, rx.stderr()
    assert said(rx).startswith("godwit: the source: cancelled"), rx.stderr()
    pair.unharmed()
    files, pids = everything(env)
    assert pids == before[0][1]
    # A lock file that was made once stays with its VM.
    assert [f for f in files if f not in before[0][0]
            and not f.endswith("/move.lock")] == []
    assert not os.path.exists(f"{env.dir}/cancel.sock")
    assert (settings(a), settings(b)) == before[1:]


def test_sigint_to_receive_while_listening(pair):
    path = f"{pair.env.dir}/wait.sock"
    rx, _ = pair.env.receive(pair.b, f"unix:{path}")
    os.kill(rx.pid, signal.SIGINT)
    assert rx.wait() == CANCELLED
    assert said(rx) == "godwit: cancelled"
    assert not os.path.exists(path)
    pair.unharmed()


def test_sigint_to_receive_in_the_middle(pair):
    """The source says why, and its VM goes on."""
    rx, at = pair.env.receive(pair.b)
    tx = pair.env.migrate(pair.a, at, *SLOW)
    wait_active(tx)
    os.kill(rx.pid, signal.SIGINT)
    assert rx.wait() == CANCELLED, rx.stderr()
    assert tx.wait() == CANCELLED, tx.stderr()
    assert said(tx).startswith("godwit: the destination: cancelled")
    pair.unharmed()


def test_sigint_to_migrate_while_connecting(pair):
    """To somebody who accepts and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as s:
        tx = pair.env.migrate(pair.a,
                              "tcp:127.0.0.1:%d" % s.getsockname()[1])
        s.settimeout(60)
        connection = s.accept()[0]
        os.kill(tx.pid, signal.SIGINT)
        assert tx.wait() == CANCELLED, tx.stderr()
        connection.close()
    pair.unharmed()


# --- what is printed where ------------------------------------------------

def cancel(pair, tx, rx):
    os.kill(tx.pid, signal.SIGINT)
    assert tx.wait() == CANCELLED and rx.wait() == CANCELLED
    pair.unharmed()


def on_terminal(env, columns, *args):
    """Start godwit on a terminal; the process and the terminal's other end."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ,
                struct.pack("HHHH", 24, columns, 0, 0))
    p = subprocess.Popen([GODWIT, *args], stdin=theirs, stdout=theirs,
                         stderr=theirs, start_new_session=True,
                         env=dict(env.environ, GODWIT_LOG="warn"))
    os.close(theirs)
    env.procs.append(p)
    return p, ours


def read_terminal(fd, until=lambda text: False, seconds=60):
    text, end = "", time.monotonic() + seconds
    while time.monotonic() < end and not until(text):
        if not select.select([fd], [], [], 0.2)[0]:
            continue
        try:
            data = os.read(fd, 65536)
        except OSError:  # the last process on it has ended
            return text
        text += data.decode(errors="replace")
        if not data:
            return text
    assert until(text), f"not within {seconds} s: {text!r}"
    return text


@pytest.mark.parametrize("columns", [80, 200])
def test_progress_on_a_terminal_is_one_line_that_is_rewritten(pair, columns):
    rx, at = pair.env.receive(pair.b)
    tx, screen = on_terminal(pair.env, columns, "migrate", pair.a.name, at,
                             *SLOW)
    text = read_terminal(screen, lambda t: t.count("\r") >= 8)
    os.kill(tx.pid, signal.SIGINT)
    text += read_terminal(screen, lambda t: "godwit: cancelled" in t)
    assert tx.wait(60) == CANCELLED and rx.wait() == CANCELLED
    os.close(screen)
    progress = text[:text.rindex("\r\x1b[K")]
    assert "\n" not in progress, repr(progress)
    lines = progress.split("\r\x1b[K")
    assert lines[0] == ""
    for line in lines[1:]:
        assert re.match(r"(setup|active|cancell\w+) +pass \d+ ", line), line
        assert len(line) < columns, "it would wrap, and rewriting fail"
    assert any(re.search(r"pass 1 .*sent .*iB at .*iB/s +left .*iB +ETA \d",
                         x) for x in lines), lines[-1]
    assert (columns == 80) == all("dirtied" not in x for x in lines)
    # The report begins on a line of its own.
    assert re.search(r"\r\ngodwit: cancelled", text), repr(text[-300:])
    pair.unharmed()


def test_progress_off_a_terminal_is_whole_lines(pair):
    rx, at = pair.env.receive(pair.b)
    tx = pair.env.godwit("migrate", pair.a.name, at, *SLOW)
    wait_until("lines of progress", lambda: len(
        re.findall(r"^active .*\n", tx.stderr(), re.M)) >= 2)
    cancel(pair, tx, rx)
    assert "\r" not in tx.stderr() and "\x1b" not in tx.stderr()
    assert tx.stdout() == ""


@pytest.mark.parametrize("option", ["-q", "--quiet"])
def test_quiet_prints_errors_only(pair, option):
    pair.b.wait_up()
    pair.env.environ["GODWIT_LOG"] = "error"
    try:
        path = f"{pair.env.dir}/quiet.sock"
        rx = pair.env.godwit("receive", f"unix:{path}", pair.b.name, option)
        wait_until("quiet receiver", lambda: os.path.exists(path))
        tx = pair.env.godwit("migrate", pair.a.name, f"unix:{path}", option,
                             *SLOW)
        wait_until("pages", lambda: harness.ram_in_use(pair.b) > 4 << 20)
        assert tx.stderr() == rx.stderr() == ""
        cancel(pair, tx, rx)
    finally:
        pair.env.environ["GODWIT_LOG"] = "info"
    for end in tx, rx:
        assert end.stdout() == ""
        assert end.stderr().count("\n") == 1 and "cancelled" in end.stderr()


def test_json_is_json_on_stdout_and_nothing_else(pair):
    rx, at = pair.env.receive(pair.b)
    tx = pair.env.migrate(pair.a, at, *SLOW)
    wait_active(tx)
    cancel(pair, tx, rx)
    for end in tx, rx:
        events = [json.loads(line) for line in end.stdout().splitlines()]
        assert all(e["event"] in ("listening", "progress", "failed")
                   for e in events)
        assert events[-1]["event"] == "failed"
        assert "cancelled" in events[-1]["error-desc"]


# --- two at a time, list, resume ------------------------------------------

def test_a_second_move_of_one_vm_is_refused_naming_the_first(pair):
    rx, at = pair.env.receive(pair.b)
    tx = pair.env.migrate(pair.a, at, *SLOW)
    wait_active(tx)
    for args in (["migrate", pair.a.name, at], ["receive", TCP, pair.b.name],
                 ["check", pair.a.name], ["resume", "--yes", pair.a.name]):
        g = pair.env.godwit(*args)
        pid = (rx if args[0] == "receive" else tx).pid
        assert g.wait() in (FAILED, USAGE), args
        assert re.search(rf"is being moved by another godwit, pid {pid}\b",
                         g.stdout() + g.stderr()), g.stdout() + g.stderr()
    assert tx.proc.poll() is None, "the first goes on"
    cancel(pair, tx, rx)


def test_list_shows_the_states_through_a_move_and_resume_acts_on_them(pair):
    a, b, env = pair.a, pair.b, pair.env

    def states():
        vms = env.list()
        return vms[a.name]["state"], vms[b.name]["state"]

    assert states() == ("running", "inmigrate")
    # Nothing to do, nothing there, before the move.
    g = env.godwit("resume", a.name)
    assert g.wait() == OK
    assert g.stdout() == f"VM '{a.name}' is in state 'running'.\n" \
        "It runs: nothing to do.\n"
    g = env.godwit("resume", "--yes", b.name)
    assert g.wait() == FAILED
    assert "still waits for a migration: there is no VM in it" in said(g)

    rx, at = env.receive(b)
    tx = env.migrate(a, at, "--max-bandwidth", "30M")
    wait_active(tx)
    assert states() == ("running", "inmigrate")
    assert tx.wait() == OK and rx.wait() == OK, tx.stderr() + rx.stderr()
    assert states() == ("postmigrate", "running")
    vms = env.list()
    assert vms[a.name]["handover"]["phase"] == "done"
    assert vms[a.name]["handover"]["role"] == "source"
    assert vms[b.name]["handover"] is None
    table = env.godwit("list")
    assert table.wait() == OK
    assert re.search(rf"^{a.name} +{a.pid} +postmigrate ", table.stdout(), re.M)
    assert "hand-over: done, source with " in table.stdout()
    b.wait_more_ticks(5)
    assert_one_story(a, b)

    # The old one is not run by accident.
    g = env.godwit("resume", a.name)
    assert g.wait() == USAGE
    assert "moved away; this QEMU holds a stopped copy" in g.stdout()
    assert "--yes says that the VM runs nowhere else" in said(g)
    assert a.status() == "postmigrate"
    for answer, code, state in (("n\n", CANCELLED, "postmigrate"),
                                ("\n", CANCELLED, "postmigrate")):
        p, screen = on_terminal(env, 80, "resume", a.name)
        read_terminal(screen, lambda t: "[y/N] " in t)
        os.write(screen, answer.encode())
        assert p.wait(60) == code
        os.close(screen)
        assert a.status() == state
    # The new one ends; then running the old copy is what resume is for.
    b.kill()
    p, screen = on_terminal(env, 80, "resume", a.name)
    read_terminal(screen, lambda t: "[y/N] " in t)
    os.write(screen, b"y\n")
    assert p.wait(60) == OK
    os.close(screen)
    assert a.running()
    a.wait_more_ticks(5)
    assert_one_story(a)
    assert env.list()[a.name]["handover"] is None
    # And it can be moved again; --yes does not ask.
    c = pair.new(incoming=True)
    env.move(a, c)
    c.kill()
    g = env.godwit("resume", "--yes", a.name)
    assert g.wait() == OK, g.stderr()
    assert a.running() and \
        f"VM '{a.name}' is in state 'running' now." in g.stdout()
    a.wait_more_ticks(5)
    assert_one_story(a)


# --- protect ----------------------------------------------------------------

def standby(env, guest, *options):
    """Start `godwit standby`; it and where it listens."""
    g = env.godwit("standby", TCP, guest.name, "--json", *options)

    def listening():
        assert g.proc.poll() is None, g.stderr()
        e = [x for x in g.events() if x["event"] == "listening"]
        return e and e[0]["uri"]
    return g, wait_until("listening standby", listening)


def failover(env, name, *options):
    return subprocess.run([GODWIT, "failover", name, *options],
                          env=env.environ, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, timeout=150)


def test_failover_without_a_standby(pair):
    for options in [], ["--status"]:
        p = failover(pair.env, pair.b.name, *options)
        assert p.returncode == FAILED and not p.stdout
        assert f"no standby of '{pair.b.name}' answers on this host" in \
            p.stderr
    p = failover(pair.env, pair.b.name, "--json")
    assert p.returncode == FAILED
    assert json.loads(p.stdout)["event"] == "failed"
    assert pair.env.list()[pair.b.name]["standby"] is None
    pair.unharmed()


def test_a_standby_that_waits_is_listed_and_ends_with_ctrl_c(pair):
    env, b = pair.env, pair.b
    rx, at = standby(env, b)
    answer = json.loads(failover(env, b.name, "--status", "--json").stdout)
    assert answer["vm"] == b.name and answer["state"] == "listening"
    assert answer["checkpoint"] == 0
    p = failover(env, b.name, "--status")
    assert p.returncode == OK
    assert p.stdout == f"{b.name}: standby, listening, no checkpoint yet\n"
    assert env.list()[b.name]["standby"] == answer
    table = env.godwit("list")
    assert table.wait() == OK
    assert re.search("^  standby, listening, no checkpoint yet$",
                     table.stdout(), re.M), table.stdout()
    # There is nothing to run.
    p = failover(env, b.name)
    assert p.returncode == FAILED and "no checkpoint is complete" in p.stderr
    assert b.status() == "inmigrate" and rx.proc.poll() is None
    os.kill(rx.pid, signal.SIGINT)
    assert rx.wait() == CANCELLED, rx.stderr()
    assert rx.result()["event"] == "failed"
    assert rx.result()["took-over"] is False
    assert not os.path.exists(os.path.join(env.rundir, b.name,
                                           "standby.sock"))
    pair.unharmed()


def test_a_standby_killed_leaves_word(pair):
    env, b = pair.env, pair.b
    rx, _ = standby(env, b)
    rx.kill()
    assert env.list()[b.name]["handover"]["phase"] == "standby"
    assert env.list()[b.name]["standby"] is None
    table = env.godwit("list")
    assert table.wait() == OK
    assert re.search(r"^  standby, which does not run, at tcp:127\.0\.0\.1:\d+,",
                     table.stdout(), re.M), table.stdout()
    # Another one may have it.
    rx, _ = standby(env, b)
    os.kill(rx.pid, signal.SIGTERM)
    assert rx.wait() == CANCELLED, rx.stderr()
    pair.unharmed()


def test_a_standby_is_no_destination(pair):
    rx, at = standby(pair.env, pair.b)
    tx = pair.env.migrate(pair.a, at)
    assert tx.wait() == REFUSED, tx.stderr()
    os.kill(rx.pid, signal.SIGINT)
    assert rx.wait() == CANCELLED, rx.stderr()
    rx, at = pair.env.receive(pair.b)
    tx = pair.env.godwit("protect", pair.a.name, at)
    assert tx.wait() == REFUSED, tx.stderr()
    assert rx.wait() != OK
    pair.unharmed()


def test_check_says_whether_it_could_be_protected(pair):
    for guest, text in ((pair.a, "checkpoints of it can be taken"),
                        (pair.b, "it can be a standby")):
        out = json.loads(run("check", guest.name, "--json",
                             env=pair.env.environ).stdout)
        said_ = [c for c in out["checks"] if c["check"] == "protect"]
        assert out["ok"] and [c["text"] for c in said_] == [text]
    pair.unharmed()


@pytest.mark.parametrize("columns", [80, 200])
def test_protection_on_a_terminal_is_one_line_that_is_rewritten(pair,
                                                                columns):
    rx, at = standby(pair.env, pair.b)
    tx, screen = on_terminal(pair.env, columns, "protect", pair.a.name, at,
                             "--interval", "50ms")
    text = read_terminal(screen, lambda t: t.count("checkpoint ") >= 8, 120)
    table = pair.env.godwit("list")
    assert table.wait() == OK
    assert re.search("^  protected to ", table.stdout(), re.M), table.stdout()
    assert re.search(r"^  standby, protected, checkpoint \d+, .* old$",
                     table.stdout(), re.M), table.stdout()
    os.kill(tx.pid, signal.SIGINT)
    text += read_terminal(screen, lambda t: "unprotected" in t)
    assert tx.wait(60) == OK and rx.wait() == OK, text + rx.stderr()
    os.close(screen)
    progress = text[:text.rindex("\r\x1b[K")]
    assert "\n" not in progress, repr(progress)
    lines = progress.split("\r\x1b[K")[1:]
    assert all(len(line) < columns for line in lines)
    numbers = [int(m[1]) for line in lines for m in [re.match(
        r"protected (?:LATE|    ) checkpoint (\d+) +pause [\d.]+ [mu]?s",
        line)] if m]
    assert numbers == sorted(numbers) and len(set(numbers)) > 3
    assert re.search(r"\d+ checkpoints, the VM stood for .* \(median\)", text)
    assert rx.result()["took-over"] is False
    # What came before is still in the memory of the one that waited.
    assert pair.a.running() and pair.b.status() == "inmigrate"


def test_protection_as_json(pair):
    rx, at = standby(pair.env, pair.b)
    tx = pair.env.godwit("protect", pair.a.name, at, "--json", "--interval",
                         "20ms")
    wait_until("checkpoints", lambda: tx.proc.poll() is None and any(
        e.get("colo", {}).get("checkpoint", 0) >= 20 for e in tx.events()),
        120)
    os.kill(tx.pid, signal.SIGINT)
    assert tx.wait() == OK and rx.wait() == OK, tx.stderr() + rx.stderr()
    events = tx.events()
    colo = [e["colo"] for e in events if "colo" in e]
    assert all(e["status"] == "colo" for e in events
               if "colo" in e and e["event"] == "progress" and
               e["status"] not in ("cancelling", "cancelled"))
    assert [c["checkpoint"] for c in colo] == sorted(
        c["checkpoint"] for c in colo)
    last = colo[-1]
    assert 0 < last["pause-us"] <= last["pause-max-us"]
    assert last["pause-p50-us"] <= last["pause-p99-us"] <= last["pause-max-us"]
    assert last["lag-us"] >= last["pause-us"]
    assert tx.result()["event"] == "completed"
    what = [e["what"] for e in rx.events() if e["event"] == "standby"]
    assert what[:2] == ["receiving", "protected"] and what[-1] == "ended"
    assert rx.result()["took-over"] is False
    assert pair.a.running() and pair.b.status() == "inmigrate"


def protected(pair, *options):
    """A protected by B; the two godwits."""
    rx, at = standby(pair.env, pair.b)
    tx = pair.env.godwit("protect", pair.a.name, at, "--json", *options)
    wait_until("a checkpoint", lambda: tx.proc.poll() is None and any(
        e.get("colo", {}).get("checkpoint", 0) >= 3 for e in tx.events()),
        120)
    return tx, rx


def test_a_fenced_vm_is_listed_and_resumed(pair):
    """The standby dies: for the primary that is a standby that takes over."""
    a, env = pair.a, pair.env
    tx, rx = protected(pair)
    rx.kill()
    assert tx.wait() == UNCERTAIN, tx.stderr()
    assert f"'godwit resume {a.name}' runs it here" in said(tx)
    assert tx.result()["exit-code"] == UNCERTAIN
    assert a.status() == "paused"
    note = env.list()[a.name]["handover"]
    assert (note["phase"], note["role"]) == ("fenced", "source")
    table = env.godwit("list")
    assert table.wait() == OK
    assert re.search("^  fenced, standby ", table.stdout(), re.M), \
        table.stdout()
    g = env.godwit("resume", a.name)
    assert g.wait() == USAGE
    assert "It was protected by the standby at " in g.stdout()
    assert "--yes says that the VM runs nowhere else" in said(g)
    assert a.status() == "paused"
    g = env.godwit("resume", "--yes", a.name)
    assert g.wait() == OK, g.stderr()
    assert env.list()[a.name]["handover"] is None
    a.wait_more_ticks(5)
    assert_one_story(a)


def test_failover_takes_over_in_an_orderly_way(pair):
    a, b, env = pair.a, pair.b, pair.env
    tx, rx = protected(pair)
    p = failover(env, b.name)
    assert (p.returncode, p.stdout) == (OK, f"VM '{b.name}' runs here now\n")
    assert tx.wait() == OK and rx.wait() == OK, tx.stderr() + rx.stderr()
    assert tx.result()["status"] == rx.result()["status"] == "completed"
    assert rx.result()["took-over"] is True
    what = [e["what"] for e in rx.events() if e["event"] == "standby"]
    assert what == ["receiving", "protected", "taking over", "running"]
    b.wait_more_ticks(5)
    assert_one_story(a, b)
    assert not a.running() and b.running()
    table = env.godwit("list")
    assert table.wait() == OK
    assert re.search("^  taken over from ", table.stdout(), re.M), \
        table.stdout()
    # Nobody keeps it any more.
    assert failover(env, b.name, "--status").returncode == FAILED


def test_interval_changes_what_is_late(pair):
    """A standby that stands still stretches the interval, and that is said."""
    def late():
        return max((e["colo"]["late"] for e in tx.events() if "colo" in e),
                   default=0)
    tx, rx = protected(pair, "--interval", "20ms", "--fence-after", "900ms")
    before = late()
    os.kill(rx.pid, signal.SIGSTOP)
    time.sleep(0.3)
    os.kill(rx.pid, signal.SIGCONT)
    wait_until("LATE", lambda: late() > before)
    os.kill(tx.pid, signal.SIGINT)
    assert tx.wait() == OK and rx.wait() == OK, tx.stderr() + rx.stderr()
    assert pair.a.running()
