# SPDX-License-Identifier: BSD-3-Clause
"""The agent in real QEMUs: every way to load it, every way QEMU hardens
itself. Each case: the RAM's descriptor is the file we made, tracking sees the
firmware write, and all of it works a second time."""
import os
import pathlib
import socket
import subprocess
import threading
import time

import pytest

from agent_util import (MEMORY, MIB, PATTERN, Vm, built, killed_client,
                        needs_program, needs_root, probe)

FULL, USER_MODE = 1, 2
DENY = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
# -sandbox elevateprivileges=deny with -daemonize fails in QEMU itself
DAEMON_DENY = "on,obsolete=deny,resourcecontrol=deny"
NOBODY = 65534

pytestmark = pytest.mark.parametrize("version", ["7.2", "10.0", "11.1"])


@pytest.fixture
def folder(tmp_path_factory):
    # short: a socket's path has 107 bytes
    path = tmp_path_factory.mktemp("a")
    for part in (path, *path.parents[:2]):
        os.chmod(part, 0o755)
    return path


def drop(version):
    return (["-runas", "nobody"] if version == "7.2" else
            ["-run-with", "user=nobody"])


def check(vm, times=2):
    for turn in range(times):
        got = probe(vm, "--memory", str(MEMORY), "--sync", "--wait", "400")
        assert got.get("ok"), (turn, got, vm.output())
        assert got["pid"] == vm.pid
        assert got["kinds"] & USER_MODE
        assert got["same"] and got["ino"] == vm.inode()
        assert got["offset"] == 0 and got["page_size"] == 4096
        assert got["first"] > 0
        assert 0 < got["then"] < MEMORY // 4096 // 2
    assert vm.qmp("query_status")["status"] == "running"
    assert "godwit-agent" not in vm.output()
    return got


def check_environment(vm):
    text = pathlib.Path(f"/proc/{vm.pid}/task/{vm.pid}/comm").read_text()
    assert text
    names = [pathlib.Path(f"/proc/{vm.pid}/task/{t}/comm").read_text().strip()
             for t in os.listdir(f"/proc/{vm.pid}/task")]
    assert names.count("godwit-agent") == 1


@pytest.mark.parametrize("plugin", [False, True], ids=["preload", "plugin"])
def test_plain(folder, version, plugin):
    with Vm(folder, version, plugin=plugin) as vm:
        check(vm)
        check_environment(vm)
        assert os.stat(vm.agent).st_mode & 0o7777 == 0o600
        vm.qmp("quit")
        vm.process.wait(30)
        assert not vm.agent.exists()


@pytest.mark.parametrize("plugin", [False, True], ids=["preload", "plugin"])
def test_kvm(folder, version, plugin):
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("no /dev/kvm")
    with Vm(folder, version, plugin=plugin, accel="kvm") as vm:
        check(vm)


def test_wrappers_in_front(folder, version):
    script = folder / "wrapper"
    script.write_text('#!/bin/sh\nwhere=$(dirname "$0")\nls "$where" '
                      '>/dev/null\nexec nice -n 1 env A=b "$@"\n')
    script.chmod(0o755)
    with Vm(folder, version, prefix=[str(script)]) as vm:
        check(vm)
        check_environment(vm)


@pytest.mark.parametrize("plugin", [False, True], ids=["preload", "plugin"])
def test_daemonize(folder, version, plugin):
    with Vm(folder, version, plugin=plugin, daemonize=True) as vm:
        assert vm.pid != vm.process.pid
        check(vm)
        check_environment(vm)


def test_client_may_come_before_daemonize(folder, version):
    said = {}

    def early():
        done = subprocess.run(
            [built("agent_probe"), str(folder / "agent")],
            capture_output=True, timeout=60, check=False)
        said["text"] = done.stdout.decode()

    thread = threading.Thread(target=early)
    thread.start()
    time.sleep(0.1)
    with Vm(folder, version, daemonize=True) as vm:
        thread.join()
        assert f'"pid": {vm.pid},' in said["text"]


@pytest.mark.parametrize("plugin", [False, True], ids=["preload", "plugin"])
def test_sandbox(folder, version, plugin):
    with Vm(folder, version, ["-sandbox", DENY], plugin=plugin) as vm:
        check(vm)


@pytest.mark.parametrize("plugin", [False, True], ids=["preload", "plugin"])
def test_sandbox_and_daemonize(folder, version, plugin):
    with Vm(folder, version, ["-sandbox", DAEMON_DENY], plugin=plugin,
            daemonize=True) as vm:
        check(vm)


@pytest.mark.parametrize("how", ["preload", "plugin", "daemonize", "sandbox"])
def test_privilege_drop(folder, version, how):
    needs_root()
    options = drop(version)
    if how == "sandbox":
        options += ["-sandbox", "on,obsolete=deny,spawn=deny"]
    with Vm(folder, version, options, plugin=how == "plugin",
            daemonize=how == "daemonize") as vm:
        got = check(vm, times=4)
        assert got["euid"] == NOBODY
        assert got["kinds"] == FULL | USER_MODE     # made early


def test_chroot(folder, version):
    """No /proc left for the agent to look into."""
    needs_root()
    empty = folder / "empty"
    empty.mkdir()
    options = (["-chroot", str(empty)] if version == "7.2" else
               ["-run-with", f"chroot={empty}"])
    with Vm(folder, version, options) as vm:
        check(vm)


def test_huge_pages(folder, version):
    free = int(pathlib.Path(
        "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
        .read_text())
    if free < MEMORY // (2 * MIB):
        pytest.skip(f"{free} free huge pages, {MEMORY // (2 * MIB)} needed")
    with Vm(folder, version, huge=True) as vm:
        got = probe(vm, "--memory", str(MEMORY), "--wait", "400")
        assert got.get("ok"), got
        assert got["page_size"] == 2 * MIB and got["same"]
        assert got["first"] > 0 and got["first"] % 512 == 0
        assert got["then"] > 0 and got["then"] % 512 == 0


def test_nobody_from_the_start(folder, version):
    """As libvirt does: the client is root and brings /dev/userfaultfd."""
    needs_root()
    os.chown(folder, NOBODY, NOBODY)
    setpriv = [needs_program("setpriv"), f"--reuid={NOBODY}",
               f"--regid={NOBODY}", "--clear-groups"]
    with Vm(folder, version, prefix=setpriv) as vm:
        assert probe(vm)["euid"] == NOBODY
        if not os.path.exists("/dev/userfaultfd"):
            pytest.skip("no /dev/userfaultfd")
        check(vm)
        # The same user may ask too, but gets the user-mode kind at most: a
        # fresh VM, because this one has been given full ones.


def test_nobody_asks_nobody(folder, version):
    """No privileges anywhere: user-mode-only tracking works end to end."""
    needs_root()
    os.chown(folder, NOBODY, NOBODY)
    setpriv = [needs_program("setpriv"), f"--reuid={NOBODY}",
               f"--regid={NOBODY}", "--clear-groups"]
    if pathlib.Path("/proc/sys/vm/unprivileged_userfaultfd") \
            .read_text().strip() != "0":
        pytest.skip("everybody may have full userfaultfds here")
    with Vm(folder, version, prefix=setpriv) as vm:
        for _ in range(2):
            got = probe(vm, "--memory", str(MEMORY), "--wait", "400",
                        prefix=setpriv)
            assert got.get("ok"), got
            assert got["kind"] == USER_MODE
            assert got["first"] > 0 and got["then"] > 0
        got = probe(vm, "--sync", prefix=setpriv)
        assert "vm.unprivileged_userfaultfd" in got["error"]


@pytest.mark.parametrize("accel", ["tcg", "kvm"])
@pytest.mark.parametrize("dropped", [False, True], ids=["root", "nobody"])
def test_guest_survives_killed_clients(folder, version, accel, dropped):
    """SYNC tracking ends with its client; ASYNC waits for the next one."""
    needs_root()
    if accel == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("no /dev/kvm")
    options = drop(version) if dropped else []
    with Vm(folder, version, options, accel=accel) as vm:
        for _ in range(3):
            killed_client(vm, "sync")
            got = probe(vm)
            assert got["held"] == 0
            check(vm, times=1)
        killed_client(vm, "async")
        assert probe(vm)["held"] == 1 << 1
        got = probe(vm, "--memory", str(MEMORY), "--wait", "400")
        # all was protected when that client died: only what was written since
        assert got["used"] == 1 and 0 < got["first"] < 1000, got
        assert got["then"] > 0
        check(vm, times=1)


def received(sock, seconds):
    """The number of bytes a QEMU sends to the listening @sock."""
    sock.settimeout(seconds)
    peer, _ = sock.accept()
    peer.settimeout(seconds)
    total = 0
    while chunk := peer.recv(1 << 20):
        total += len(chunk)
    peer.close()
    return total


@pytest.mark.parametrize("how", ["plain", "daemonize", "sandbox"])
def test_memfd_is_ram_that_stays_out_of_streams(folder, version, how):
    """mem-path=/proc/self/fd/N of a memfd is ignorable shared RAM."""
    options = ["-sandbox", DENY] if how == "sandbox" else []
    sizes = {}
    with Vm(folder, version, options, daemonize=how == "daemonize") as vm:
        for ignore in (True, False):
            vm.qmp("migrate_set_capabilities", capabilities=[
                {"capability": "x-ignore-shared", "state": ignore}])
            sink = socket.socket(socket.AF_UNIX)
            sink.bind(str(folder / f"sink{ignore}"))
            sink.listen(1)
            vm.qmp("migrate", uri=f"unix:{folder / f'sink{ignore}'}")
            sizes[ignore] = received(sink, 60)
            sink.close()
            end = time.monotonic() + 30
            while vm.qmp("query_migrate")["status"] != "completed":
                assert time.monotonic() < end
                time.sleep(0.05)
            vm.qmp("cont")
    assert sizes[True] < 2 * MIB
    assert sizes[False] > PATTERN
