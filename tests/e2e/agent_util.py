# SPDX-License-Identifier: BSD-3-Clause
"""Start a small QEMU with the agent in it. For test_agent.py only: these VMs
boot no further than their firmware, which writes memory all the time."""
import json
import mmap
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import time

import pytest

TOP = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("GODWIT_BUILD", TOP / "build"))
DEPS = pathlib.Path(os.environ.get("GODWIT_DEPS", TOP / ".deps"))
MIB = 1 << 20
MEMORY = 64 * MIB
PATTERN = 16 * MIB      # where the test's own bytes are in RAM; length too


def built(name):
    path = BUILD / "agent" / name
    if not path.exists():
        pytest.skip(f"{path} is not built (set GODWIT_BUILD)")
    return str(path)


def qemu(version):
    path = DEPS / f"qemu-{version}" / "qemu-system-x86_64"
    if not os.access(path, os.X_OK):
        pytest.skip(f"no QEMU {version}: run scripts/get-qemu {version}")
    return str(path)


class Qmp:
    """The least there is: one command at a time, events are dropped."""

    def __init__(self, path, seconds=30):
        end = time.monotonic() + seconds
        while True:
            self.sock = socket.socket(socket.AF_UNIX)
            try:
                self.sock.connect(str(path))
                break
            except OSError:
                self.sock.close()
                if time.monotonic() > end:
                    raise
                time.sleep(0.02)
        self.sock.settimeout(seconds)
        self.file = self.sock.makefile("r")
        json.loads(self.file.readline())
        self("qmp_capabilities")

    def __call__(self, command, **arguments):
        line = {"execute": command.replace("_", "-")
                if command != "qmp_capabilities" else command}
        if arguments:
            line["arguments"] = {k.replace("_", "-"): v
                                 for k, v in arguments.items()}
        self.sock.sendall(json.dumps(line).encode())
        while True:
            answer = json.loads(self.file.readline())
            if "error" in answer:
                raise RuntimeError(answer["error"]["desc"])
            if "return" in answer:
                return answer["return"]

    def close(self):
        self.file.close()
        self.sock.close()


class Vm:
    """One QEMU whose RAM is an inherited memfd, as `godwit run` makes it."""

    def __init__(self, folder, version, options=(), plugin=False,
                 prefix=(), daemonize=False, accel="tcg", huge=False):
        program = qemu(version)     # skips, before anything is made
        self.agent = folder / "agent"
        self.qmp_path = folder / "qmp"
        self.pidfile = folder / "pid"
        self.log = folder / "stderr"
        self.pid = None
        self.memfd = os.memfd_create("pc.ram", os.MFD_HUGETLB if huge else 0)
        os.truncate(self.memfd, MEMORY)
        with mmap.mmap(self.memfd, MEMORY) as ram:
            for page in range(PATTERN, 2 * PATTERN, 4096):
                ram[page:page + 4096] = os.urandom(4096)
        command = [*prefix, program,
                   "-nodefaults", "-display", "none", "-vga", "none",
                   "-accel", accel, "-m", str(MEMORY // MIB), "-object",
                   f"memory-backend-file,id=pc.ram,size={MEMORY}"
                   f",mem-path=/proc/self/fd/{self.memfd},share=on",
                   "-machine", "pc,memory-backend=pc.ram",
                   "-qmp", f"unix:{self.qmp_path},server=on,wait=off",
                   "-pidfile", str(self.pidfile), *options]
        env = dict(os.environ)
        if plugin:
            command += ["-plugin",
                        f"{built('godwit-agent.so')},socket={self.agent}"]
        else:
            env["LD_PRELOAD"] = built("godwit-agent.so")
            env["GODWIT_AGENT"] = str(self.agent)
        if daemonize:
            command += ["-daemonize"]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                command, env=env, pass_fds=[self.memfd],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            if daemonize:
                assert self.process.wait(60) == 0, self.output()
            self.qmp = Qmp(self.qmp_path)
            self.pid = int(self.pidfile.read_text())
        except BaseException as error:
            self.close()
            raise AssertionError(f"{error}; QEMU: {self.output()}") from error

    def output(self):
        return self.log.read_text(errors="replace")

    def inode(self):
        return os.fstat(self.memfd).st_ino

    def close(self):
        if self.pid is None and self.pidfile.exists():
            self.pid = int(self.pidfile.read_text())
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        elif self.pid and pathlib.Path(f"/proc/{self.pid}").exists():
            os.kill(self.pid, signal.SIGKILL)
        os.close(self.memfd)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def probe(vm, *options, prefix=()):
    """What agent_probe says about the VM, as a dictionary."""
    done = subprocess.run([*prefix, built("agent_probe"), str(vm.agent),
                           *options], capture_output=True, timeout=60,
                          check=False)
    try:
        return json.loads(done.stdout)
    except ValueError:
        raise AssertionError(
            f"agent_probe: {done.stdout} {done.stderr}") from None


def killed_client(vm, purpose):
    """A client that protects all RAM for "sync" or "async" and is killed."""
    with subprocess.Popen([built("agent_probe"), str(vm.agent), "--memory",
                           str(MEMORY), "--hold", purpose],
                          stdout=subprocess.PIPE) as client:
        try:
            said = client.stdout.readline().decode()
            time.sleep(0.3)     # for the guest to run into it
        finally:
            client.kill()
    assert json.loads(said).get("held"), said


def needs_root():
    if os.geteuid():
        pytest.skip("needs root")


def needs_program(name):
    path = shutil.which(name)
    if not path:
        pytest.skip(f"no {name}")
    return path
