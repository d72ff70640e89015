# SPDX-License-Identifier: BSD-3-Clause
"""godwit run and godwit list with every QEMU at hand.

Run by /usr/bin/python3 -m pytest. GODWIT_BUILD names the build folder, QEMUs are those that scripts/get-qemu unpacked, and $QEMU.
"""
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

from harness import why_small_pages

TOP = Path(__file__).resolve().parents[2]
DEPS = Path(os.environ.get("GODWIT_DEPS", TOP / ".deps"))
GODWIT = os.path.join(os.environ.get("GODWIT_BUILD", str(TOP / "build")),
                      "cli", "godwit")
QEMUS = {v: str(DEPS / f"qemu-{v}/qemu-system-x86_64")
         for v in ("7.2", "10.0", "11.1")}
if os.environ.get("QEMU"):
    QEMUS["env"] = os.environ["QEMU"]
SMALL = ["-m", "64", "-nodefaults", "-display", "none"]
PATIENCE = 30  # seconds

pytestmark = pytest.mark.skipif(not os.access(GODWIT, os.X_OK),
                                reason=f"{GODWIT} is not built")


@pytest.fixture(params=sorted(QEMUS))
def qemu(request):
    if not os.access(QEMUS[request.param], os.X_OK):
        pytest.skip(f"QEMU {request.param}: scripts/get-qemu has not run")
    return QEMUS[request.param]


@pytest.fixture
def any_qemu():
    for program in QEMUS.values():
        if os.access(program, os.X_OK):
            return program
    pytest.skip("no QEMU: scripts/get-qemu has not run")


class Host:
    """A runtime folder and the processes started in it."""

    def __init__(self, path):
        self.dir = path
        self.env = dict(os.environ, GODWIT_RUNTIME_DIR=str(path))
        self.procs = []

    def godwit(self, *args, check=0, env=None):
        p = subprocess.run([GODWIT, *map(str, args)], text=True,
                           env=dict(self.env, **(env or {})),
                           stdin=subprocess.DEVNULL, capture_output=True,
                           timeout=PATIENCE)
        assert p.returncode == check, p.stdout + p.stderr
        return p

    def start(self, name, *args, **kw):
        """`godwit run` in the background; waits for its status monitor."""
        kw.setdefault("stderr", subprocess.PIPE)
        p = subprocess.Popen([GODWIT, "run", name, *map(str, args)], text=True,
                             env=self.env, stdin=subprocess.DEVNULL, **kw)
        self.procs.append(p)
        self.wait_state(name, p)
        return p

    def list(self):
        return {vm["name"]: vm for vm in
                json.loads(self.godwit("list", "--json").stdout)}

    def wait_state(self, name, proc=None):
        end = time.time() + PATIENCE
        while time.time() < end:
            vm = self.list().get(name)
            if vm and vm["state"] not in ("starting", "busy", "unreachable"):
                return vm
            if proc and proc.poll() not in (None, 0):  # 0: it daemonized
                pytest.fail(proc.stderr.read())
            time.sleep(0.05)
        pytest.fail(f"{name} did not come up: {self.list()}")

    def wait_gone(self, name):
        end = time.time() + PATIENCE
        while name in self.list() and time.time() < end:
            time.sleep(0.05)
        assert name not in self.list()
        assert not (self.dir / name).exists()

    def close(self):
        for vm in self.list().values():
            os.kill(vm["pid"], signal.SIGKILL)
        for p in self.procs:
            p.wait(PATIENCE)
            if p.stderr:
                p.stderr.close()


@pytest.fixture
def host(tmp_path_factory):
    # short: socket paths have a limit
    h = Host(Path(os.path.realpath(tmp_path_factory.mktemp("r"))))
    h.dir.chmod(0o700)
    yield h
    h.close()


class Qmp:
    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(PATIENCE)
        self.sock.connect(path)
        self.file = self.sock.makefile("rw")
        self.greeting = json.loads(self.file.readline())
        self("qmp_capabilities")

    def __call__(self, command, **args):
        json.dump({"execute": command, "arguments": args}, self.file)
        self.file.flush()
        while True:
            reply = json.loads(self.file.readline())
            if "event" not in reply:
                assert "return" in reply, reply
                return reply["return"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.sock.close()


def shared_pages_in_stream(vm, path):
    """Bytes of RAM QEMU has to send when shared RAM is left out."""
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen(1)

    def drain():
        conn, _ = server.accept()
        while conn.recv(1 << 20):
            pass
        conn.close()

    thread = threading.Thread(target=drain)
    thread.start()
    with Qmp(vm["qmp"]) as qmp:
        qmp("stop")
        qmp("migrate-set-capabilities", capabilities=[
            {"capability": "x-ignore-shared", "state": True}])
        qmp("migrate", uri=f"unix:{path}")
        while True:
            info = qmp("query-migrate")
            if info.get("status") in ("completed", "failed"):
                break
            time.sleep(0.02)
    thread.join()
    server.close()
    assert info["status"] == "completed"
    return info["ram"]["total"]


@pytest.mark.parametrize("extra", [
    [], ["-daemonize"], ["-sandbox", "on"], ["-M", "q35"], ["-M", "microvm"],
    ["-object", "memory-backend-ram,id=pc.ram,size=64M",
     "-machine", "memory-backend=pc.ram"],
    ["-object", '{"qom-type":"memory-backend-memfd","id":"x","size":67108864,'
     '"share":true}', "-numa", "node,memdev=x"],
    ["-mem-path", "/dev/shm"],
], ids=lambda e: "-".join(w.strip("-").split(",")[0][:12] for w in e) or "plain")
def test_ram_can_be_shared(host, qemu, extra):
    """The VM runs, is listed, and x-ignore-shared leaves all its RAM out."""
    host.start("vm", "--", qemu, *SMALL, *extra)
    vm = host.list()["vm"]
    assert vm["state"] == "running"
    assert vm["memory"] == 64 << 20
    assert [b["size"] for b in vm["blocks"]] == [64 << 20]
    with Qmp(vm["qmp"]) as qmp:
        backends = qmp("query-memdev")
        version = qmp.greeting["QMP"]["version"]["qemu"]
    assert [b["id"] for b in backends] == [b["id"] for b in vm["blocks"]]
    assert all(b["share"] for b in backends)
    assert vm["qemu"] == "{major}.{minor}.{micro}".format(**version)
    maps = Path(f"/proc/{vm['pid']}/maps").read_text()
    assert "godwit-" + vm["blocks"][0]["id"] in maps
    # what is left is firmware and video memory
    assert shared_pages_in_stream(vm, str(host.dir / "out")) < 64 << 20


def test_existing_backend_is_left_alone(host, qemu, tmp_path):
    ram = tmp_path / "ram"
    host.start("vm", "--", qemu, *SMALL, "-object",
               f"memory-backend-file,id=m,size=64M,mem-path={ram},share=on",
               "-machine", "memory-backend=m")
    vm = host.list()["vm"]
    assert vm["blocks"] == [{"id": "m", "size": 64 << 20}]
    assert str(ram) in Path(f"/proc/{vm['pid']}/maps").read_text()
    assert shared_pages_in_stream(vm, str(host.dir / "out")) < 64 << 20


def test_memory_option(host, qemu):
    host.start("vm", "--memory", "96M", "--", qemu, *SMALL)
    vm = host.list()["vm"]
    assert vm["memory"] == 96 << 20
    with Qmp(vm["qmp"]) as qmp:
        assert qmp("query-memory-size-summary")["base-memory"] == 96 << 20


@pytest.mark.parametrize("agent", ["preload", "plugin"])
def test_agent_is_there(host, qemu, agent):
    host.start("vm", "--agent", agent, "--", qemu, *SMALL)
    vm = host.list()["vm"]
    assert vm["agent-mode"] == agent
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        try:
            s.connect(vm["agent"])
        except OSError:  # of another type: somebody listens all the same
            assert Path(vm["agent"]).is_socket()
    environ = Path(f"/proc/{vm['pid']}/maps").read_text()
    assert "godwit-agent.so" in environ


def test_incoming_waits(host, qemu):
    host.start("vm", "--incoming", "--", qemu, *SMALL)
    vm = host.list()["vm"]
    assert vm["incoming"] and vm["state"] == "inmigrate"
    assert re.search(r"^vm +\d+ +inmigrate +64.0 MiB +[\d.]+ +yes +/",
                     host.godwit("list").stdout, re.M)


def test_default_monitor_is_kept(host, qemu):
    """With -nographic Ctrl-C belongs to the guest: the console is a mux."""
    host.start("vm", "--", qemu, "-m", "64", "-nographic",
               stdout=subprocess.DEVNULL)
    with Qmp(host.list()["vm"]["qmp"]) as qmp:
        labels = {c["label"] for c in qmp("query-chardev")}
    assert {"serial0", "serial0-base"} <= labels


def test_killed_vm_disappears(host, qemu):
    for extra in [], ["-daemonize"]:
        p = host.start("vm", "--", qemu, *SMALL, *extra)
        pid = host.list()["vm"]["pid"]
        assert (pid == p.pid) == (not extra)
        os.kill(pid, signal.SIGKILL)
        p.wait(PATIENCE)
        host.wait_gone("vm")
    assert "No VMs are running" in host.godwit("list").stdout


def test_exit_status_is_that_of_qemu(host, qemu):
    p = host.start("vm", "--", qemu, *SMALL)
    with Qmp(host.list()["vm"]["qmp"]) as qmp:
        qmp("quit")
    assert p.wait(PATIENCE) == 0
    host.godwit("run", "vm", "--", qemu, *SMALL, "-device", "no-such-device",
                check=1)
    host.wait_gone("vm")
    p = host.start("vm", "--", qemu, *SMALL)
    p.terminate()
    assert p.wait(PATIENCE) == 0  # QEMU's answer to SIGTERM
    host.wait_gone("vm")


def test_name_in_use(host, any_qemu):
    host.start("vm", "--", any_qemu, *SMALL, "-daemonize")
    p = host.godwit("run", "vm", "--", any_qemu, *SMALL, check=1)
    assert "'vm' is already running" in p.stderr
    os.kill(host.list()["vm"]["pid"], signal.SIGKILL)
    end = time.time() + PATIENCE
    while Path(host.dir / "vm").exists() and time.time() < end:
        host.list()
    host.start("vm", "--", any_qemu, *SMALL)


def test_two_at_the_same_time(host, any_qemu):
    procs = [subprocess.Popen([GODWIT, "run", "vm", "--", any_qemu, *SMALL],
                              env=host.env, stdin=subprocess.DEVNULL,
                              stderr=subprocess.PIPE, text=True)
             for _ in range(4)]
    host.wait_state("vm")
    winner = host.list()["vm"]["pid"]
    for p in procs:
        if p.pid != winner:
            assert p.wait(PATIENCE) == 1
            assert "already running" in p.stderr.read()
        else:
            host.procs.append(p)
    assert winner in [p.pid for p in procs]
    host.close()
    host.procs.clear()
    for p in procs:
        p.stderr.close()


def test_busy_status_monitor(host, any_qemu):
    host.start("vm", "--", any_qemu, *SMALL)
    vm = host.list()["vm"]
    with Qmp(vm["status"]):
        busy = host.list()["vm"]
        assert busy["state"] == "busy"
        assert busy["qemu"] == vm["qemu"]
    assert host.list()["vm"]["state"] == "running"


def test_note_is_shown(host, any_qemu):
    host.start("vm", "--", any_qemu, *SMALL)
    (host.dir / "vm/handover.json").write_text(json.dumps({
        "phase": "uncertain", "role": "source", "peer": "tcp:b:4444",
        "time": 1700000000, "text": "go was sent"}))
    assert host.list()["vm"]["handover"]["phase"] == "uncertain"
    out = host.godwit("list").stdout
    assert "hand-over: uncertain, source with tcp:b:4444" in out
    assert "go was sent" in out


HUGE = "on transparent huge pages"
# As root, but for what a tmpfs of our own takes.
NO_MOUNT = ["setpriv", "--bounding-set", "-sys_admin"]
can_be_huge = pytest.mark.skipif(why_small_pages() != "",
                                 reason=why_small_pages())


@can_be_huge
@pytest.mark.parametrize("options, before, huge", [
    ([], [], True),
    (["--transparent-hugepages"], [], True),
    (["--no-transparent-hugepages"], [], False),
    ([], NO_MOUNT, False),
], ids=["default", "asked-for", "declined", "not-allowed"])
def test_huge_pages_where_they_can_be_had(host, qemu, options, before, huge):
    r = subprocess.run([*before, GODWIT, "run", "vm", *options, "--dry-run",
                        "--", qemu, *SMALL], env=host.env, text=True,
                       capture_output=True, timeout=PATIENCE)
    assert r.returncode == 0, r.stderr
    assert (HUGE in r.stdout) == huge
    assert ("align=2097152" in r.stdout) == huge


@can_be_huge
def test_huge_pages_that_cannot_be_had(host, qemu):
    r = subprocess.run([*NO_MOUNT, GODWIT, "run", "vm",
                        "--transparent-hugepages", "--", qemu, *SMALL],
                       env=host.env, text=True, capture_output=True,
                       timeout=PATIENCE)
    assert r.returncode == 1, r.stderr
    assert re.search("RAM block 'pc.ram'.*huge=always, which root may mount",
                     r.stderr), r.stderr
    assert host.list() == {}
    r = host.godwit("run", "vm", "--hugepages", "--no-transparent-hugepages",
                    "--", qemu, *SMALL, check=2)
    assert "choose one" in r.stderr


def test_dry_run_changes_nothing(host, qemu):
    out = host.godwit("run", "vm", "--dry-run", "--", qemu, "-m", "1G",
                      "-append", "it's -S").stdout
    line = out.splitlines()[-1]
    words = shlex.split(line)
    assert words[0].startswith("LD_PRELOAD=/")
    assert words[1] == f"GODWIT_AGENT={host.dir}/vm/agent.sock"
    assert words[2:7] == [qemu, "-m", "1G", "-append", "it's -S"]
    assert re.search(r"# fd \d+: RAM block 'pc.ram', 1.00 GiB", out)
    assert not list(host.dir.iterdir())


def test_every_switch_of_qemu_is_known(qemu):
    """cmdline.c's table of options without argument, against QEMU itself: it
    looks at all words before it obeys -version."""
    source = (TOP / "lib/vm/qemu/cmdline.c").read_text()
    table = source[source.index("switches[] = {"):]
    known = set(re.findall(r'"([^"]+)"', table[:table.index("};")]))
    text = subprocess.run([qemu, "-help"], text=True, capture_output=True,
                          timeout=PATIENCE, check=True).stdout
    options = set(re.findall(r"^--?([\w-]+)", text, re.M))
    assert len(options) > 90
    for option in options | known - {"?", "h", "help"}:
        p = subprocess.run([qemu, "-version", "-" + option], text=True,
                           capture_output=True, timeout=PATIENCE)
        if "invalid option" not in p.stderr:
            assert (option in known) == (p.returncode == 0), option


@pytest.mark.parametrize("args, message", [
    (["-device", "vfio-pci,host=1"], r"vfio-pci: .*DMA.*: leave it out"),
    (["-netdev", "tap,id=n,vhost=on"], r"vhost.*: write vhost=off"),
    (["-incoming", "tcp:0:1"], r"write --incoming"),
    (["-machine", "none"], r"'none' cannot be shared"),
    (["-object", "memory-backend-file,id=m,size=1G,mem-path=/x"],
     r"private mapping.*share=on"),
])
def test_refusals_say_why_and_what_to_do(host, any_qemu, args, message):
    p = host.godwit("run", "vm", "--", any_qemu, *args, check=1)
    assert re.search(message, p.stderr), p.stderr
    assert p.stderr.count("\n") == 1
    assert not list(host.dir.iterdir())


@pytest.mark.parametrize("args, message", [
    ([], "NAME for the VM is missing"),
    (["vm"], "QEMU command is missing"),
    (["vm", "--"], "QEMU command is missing"),
    (["a/b", "--", "qemu"], "cannot be the name"),
    (["vm", "qemu", "-m", "1"], "write -- before"),
    (["vm", "--memory", "lots", "--", "q"], "is not a size"),
    (["vm", "--memory"], "--memory needs a value"),
    (["vm", "--agent", "x", "--", "q"], "neither preload nor plugin"),
    (["--frobnicate", "vm", "--", "q"], "unknown option --frobnicate"),
])
def test_usage(host, args, message):
    assert message in host.godwit("run", *args, check=2).stderr


def test_not_a_qemu(host):
    for program, message in (("/bin/true", "does not answer as QEMU"),
                             ("/bin/cat", "does not answer as QEMU"),
                             ("/no/such/qemu", "cannot run '/no/such/qemu'")):
        p = subprocess.run([GODWIT, "run", "vm", "--", program], text=True,
                           env=host.env, capture_output=True,
                           stdin=subprocess.DEVNULL, timeout=PATIENCE)
        assert p.returncode in (1, 2)
        assert message in p.stderr
    assert not list(host.dir.iterdir())


def test_list_usage(host):
    assert "takes no arguments" in host.godwit("list", "x", check=2).stderr
    assert host.godwit("list", "--json").stdout == "[]\n"


def test_folder_open_to_others(host):
    host.dir.chmod(0o755)
    assert "chmod 700" in host.godwit("list", check=1).stderr
    host.dir.chmod(0o700)
