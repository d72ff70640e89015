# SPDX-License-Identifier: BSD-3-Clause
"""What the end-to-end tests share: real QEMUs with a real Linux guest, run by
`godwit run`, and the godwit command as a user would type it.

Every process is started in its own session and ended by pid; every file is
below the test's own directory. Times are generous: machines are shared.
"""
import contextlib
import json
import mmap
import os
import re
import select
import signal
import socket
import subprocess
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))
BUILD = os.environ.get("GODWIT_BUILD", os.path.join(TOP, "build"))
DEPS = os.environ.get("GODWIT_DEPS", os.path.join(TOP, ".deps"))
GODWIT = os.path.join(BUILD, "cli", "godwit")
GUEST = os.environ.get("GODWIT_GUEST", os.path.join(DEPS, "guest"))
MIB = 1 << 20
BOOT_S = 120  # until the first tick, on a busy machine
TICK = re.compile(r"^tick (\d+) (\d+) sum=([0-9a-f]{16}) dirty=(\d+) "
                  r"direct=(\d+) bad=(\d+)(?: loop=(\d+))?$")

# Exit codes of godwit (docs/man/godwit.1.scd).
OK, FAILED, USAGE, INPUT, VERIFY, CONVERGE, REFUSED, CANCELLED, UNCERTAIN = \
    range(9)


def qemu_path(version):
    """The unpacked QEMU of that version, or None."""
    path = os.path.join(DEPS, "qemu-" + version, "qemu-system-x86_64")
    return path if os.path.exists(path) else None


def versions():
    return [v for v in ("7.2", "10.0", "11.1") if qemu_path(v)]


def each_version():
    """For parametrize: 10.0, and the others in `make soak`."""
    import pytest
    return ["10.0", *(pytest.param(v, marks=pytest.mark.soak)
                      for v in ("7.2", "11.1"))]


def wait_until(what, fn, timeout=60, step=0.02):
    """fn() as soon as it is true; an assertion naming @what otherwise."""
    end = time.monotonic() + timeout
    while True:
        value = fn()
        if value:
            return value
        assert time.monotonic() < end, f"no {what} within {timeout} s"
        time.sleep(step)


class Tick:
    def __init__(self, match):
        self.n, self.ms = int(match[1]), int(match[2])
        self.sum = match[3]
        self.dirty, self.direct, self.bad = (int(match[i]) for i in (4, 5, 6))
        self.loop = int(match[7] or 0)

    def __repr__(self):
        return f"tick {self.n} bad={self.bad}"


class Qmp:
    """A bare QMP client for the test's own monitor."""

    def __init__(self, path, timeout=30):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(timeout)
        self.sock.connect(path)
        self.file = self.sock.makefile("rw")
        self.greeting = json.loads(self.file.readline())
        self.count = 0
        self("qmp_capabilities")

    def __call__(self, command, **arguments):
        self.count += 1
        self.file.write(json.dumps({"execute": command, "id": self.count,
                                    "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            line = self.file.readline()
            if not line:
                raise ConnectionError("QEMU closed its monitor")
            reply = json.loads(line)
            if reply.pop("id", None) == self.count:
                return reply

    def close(self):
        self.file.close()
        self.sock.close()


# RAM that uffd-wp tracks, too: it refuses transparent huge pages, which are
# what `godwit run` makes as root.
SMALL_PAGES = ["--no-transparent-hugepages"]


def why_small_pages():
    """Why RAM of transparent huge pages cannot be had here; "": it can."""
    if os.geteuid():
        return "not root: --transparent-hugepages is NOT tested"
    if tuple(map(int, os.uname().release.split(".")[:2])) < (6, 7):
        return ("no PAGEMAP_SCAN (Linux 6.7), so transparent huge pages "
                "cannot be tracked: --transparent-hugepages is NOT tested")
    return ""


class Guest:
    """A QEMU with the Linux guest, started by `godwit run NAME`, with the
    options in GODWIT_TEST_RUN too (--no-transparent-hugepages)."""

    def __init__(self, env, name, incoming=False, version="10.0", memory=256,
                 append="gw.tick=20 gw.dirty=16:2000", cpus=1, machine="pc",
                 extra=(), run_options=(), accel="tcg,thread=multi",
                 daemonize=False):
        self.env, self.name, self.version = env, name, version
        self.daemon = None  # its pidfd
        self.console = os.path.join(env.dir, name + ".console")
        self.test_qmp = os.path.join(env.dir, name + ".testqmp")
        self.seen = 0
        open(self.console, "w").close()
        self.command = [
            qemu_path(version), "-accel", accel, "-m", str(memory),
            "-smp", str(cpus), "-machine", machine, "-nodefaults",
            "-display", "none", "-no-reboot",
            "-kernel", os.path.join(GUEST, "vmlinux"),
            "-initrd", os.path.join(GUEST, "initrd.gz"),
            "-append", "console=ttyS0 quiet panic=-1 " + append,
            "-serial", "file:" + self.console,
            "-qmp", f"unix:{self.test_qmp},server=on,wait=off", *extra]
        self.proc = self.launch(incoming, run_options)
        self.pid = self.proc.pid
        if daemonize:
            self.find_daemon()

    def launch(self, incoming, run_options):
        options = [*(["--incoming"] if incoming else []), *run_options,
                   *os.environ.get("GODWIT_TEST_RUN", "").split()]
        return self.env.start([GODWIT, "run", self.name, *options, "--",
                               *self.command], self.name + ".qemu")

    def find_daemon(self):
        """-daemonize in @extra: `godwit run` has ended, QEMU lives on."""
        assert self.proc.wait(60) == 0, self.env.read(self.name + ".qemu")
        self.pid = self.env.list()[self.name]["pid"]
        assert self.pid != self.proc.pid
        self.daemon = os.pidfd_open(self.pid)
        self.env.daemons.append(self.daemon)

    def alive(self):
        if self.daemon is None:
            return self.proc.poll() is None
        return not select.select([self.daemon], [], [], 0)[0]

    # -- what the guest says

    def lines(self):
        with open(self.console, errors="replace") as f:
            text = f.read()
        return text[:text.rfind("\n") + 1].splitlines()

    def ticks(self):
        return [Tick(m) for m in map(TICK.match, self.lines()) if m]

    def wait_tick(self, n=1, timeout=BOOT_S):
        """Wait for a tick numbered >= n; the last one then."""
        def last():
            assert self.alive(), \
                f"QEMU {self.name} ended: {self.env.read(self.name + '.qemu')}"
            t = self.ticks()
            return t[-1] if t and t[-1].n >= n else None
        return wait_until(f"tick {n} of {self.name}", last, timeout)

    def wait_more_ticks(self, count=5, timeout=BOOT_S):
        t = self.ticks()
        return self.wait_tick((t[-1].n if t else 0) + count, timeout)

    def assert_healthy(self):
        """Counter without gap or repetition, checksum constant, no BAD."""
        t = self.ticks()
        assert t, f"{self.name} never ticked"
        numbers = [x.n for x in t]
        assert numbers == list(range(numbers[0], numbers[0] + len(t))), \
            f"{self.name} skipped or repeated: {numbers}"
        assert len({x.sum for x in t}) == 1, f"{self.name}: checksum changed"
        bad = [line for line in self.lines() if line.startswith("BAD")]
        assert t[-1].bad == 0 and not bad, f"{self.name}: {bad[:5]}"
        return t

    # -- its QEMU

    def qmp(self):
        return Qmp(self.test_qmp)

    def status(self):
        """query-status through the test's own monitor, "dead" without QEMU."""
        if not self.alive():
            return "dead"
        try:
            q = self.qmp()
        except OSError:
            return "dead"
        try:
            return q("query-status")["return"]["status"]
        finally:
            q.close()

    def wait_up(self):
        """Until its QEMU answers."""
        def up():
            assert self.alive(), self.env.read(self.name + ".qemu")
            return self.status() != "dead"
        wait_until(f"answer of QEMU {self.name}", up)

    def running(self):
        return self.status() == "running"

    def ask(self, command, **arguments):
        """What QEMU returns to a command on the test's own monitor."""
        q = self.qmp()
        try:
            reply = q(command, **arguments)
        finally:
            q.close()
        assert "return" in reply, reply
        return reply["return"]

    def kill(self, sig=signal.SIGKILL):
        if self.daemon is not None:
            if self.alive():
                signal.pidfd_send_signal(self.daemon, sig)
                select.select([self.daemon], [], [], 30)
        elif self.proc.poll() is None:
            os.kill(self.pid, sig)
            self.proc.wait(30)


class PlainGuest(Guest):
    """The same guest in a QEMU that knows nothing of godwit. @incoming: what
    -incoming says ("defer", a uri)."""

    def launch(self, incoming, run_options):
        more = ["-incoming", incoming] if incoming else []
        return self.env.start(self.command + more, self.name + ".qemu")

    def set(self, *capabilities, **parameters):
        """Migration capabilities on, parameters to values ("_" for "-")."""
        if capabilities:
            self.ask("migrate-set-capabilities", capabilities=[
                {"capability": c, "state": True} for c in capabilities])
        if parameters:
            self.ask("migrate-set-parameters", **{
                k.replace("_", "-"): v for k, v in parameters.items()})

    def capabilities(self, **on):
        self.ask("migrate-set-capabilities", capabilities=[
            {"capability": k.replace("_", "-"), "state": v}
            for k, v in on.items()])

    def listen(self, uri="tcp:127.0.0.1:0", **on):
        """Wait for a migration (-incoming defer); where."""
        self.wait_up()
        if on:
            self.capabilities(**on)
        self.ask("migrate-incoming", uri=uri)
        if not uri.startswith("tcp"):
            return uri
        a = self.ask("query-migrate")["socket-address"][0]
        return f"tcp:127.0.0.1:{a['port']}"

    def migration(self):
        return self.ask("query-migrate").get("status")

    def migrate(self, uri, wait=True):
        self.ask("migrate", uri=uri)
        if wait:
            wait_until(f"end of the migration of {self.name}",
                       lambda: self.migration() in ("completed", "failed",
                                                    "cancelled"), 120)
            assert self.migration() == "completed", \
                self.ask("query-migrate")

    def load(self, uri):
        """migrate-incoming, until it is all there."""
        self.ask("migrate-incoming", uri=uri)
        self.wait_loaded()

    def wait_loaded(self):
        wait_until(f"VM in {self.name}",
                   lambda: self.status() not in ("inmigrate", "dead"), 120)


class Godwit:
    """One running godwit command."""

    def __init__(self, env, args, tag, stdin=subprocess.DEVNULL, fds=()):
        self.env, self.tag, self.args = env, tag, args
        self.proc = env.start([GODWIT, *args], tag, split=True, stdin=stdin,
                              fds=fds)
        self.pid = self.proc.pid

    def wait(self, timeout=180):
        """Exit code."""
        return self.proc.wait(timeout)

    def stdout(self):
        return self.env.read(self.tag + ".out")

    def stderr(self):
        return self.env.read(self.tag + ".err")

    def events(self):
        """Objects of --json."""
        return [json.loads(x) for x in self.stdout().splitlines()
                if x.startswith("{")]

    def result(self):
        return self.events()[-1]

    def kill(self, sig=signal.SIGKILL):
        if self.proc.poll() is None:
            os.kill(self.pid, sig)


class Env:
    """A directory, a runtime directory and everything started in them."""

    def __init__(self, path):
        self.dir = str(path)
        self.rundir = os.path.join(self.dir, "run")
        os.makedirs(self.rundir, mode=0o700, exist_ok=True)
        self.procs = []
        self.daemons = []
        self.count = 0
        self.environ = dict(os.environ, GODWIT_RUNTIME_DIR=self.rundir,
                            GODWIT_LOG=os.environ.get("GODWIT_LOG", "info"))

    def read(self, name):
        with open(os.path.join(self.dir, name), errors="replace") as f:
            return f.read()

    def start(self, argv, tag, split=False, stdin=subprocess.DEVNULL,
              fds=()):
        out = open(os.path.join(self.dir, tag + (".out" if split else "")),
                   "w")
        err = open(os.path.join(self.dir, tag + ".err"), "w") if split \
            else subprocess.STDOUT
        p = subprocess.Popen(argv, stdin=stdin, stdout=out, stderr=err,
                             env=self.environ, start_new_session=True,
                             pass_fds=fds)
        out.close()
        if split:
            err.close()
        self.procs.append(p)
        return p

    def guest(self, name, **kw):
        return Guest(self, name, **kw)

    def plain(self, name, **kw):
        return PlainGuest(self, name, **kw)

    def godwit(self, *args, tag=None, fds=()):
        """@fds: what it inherits besides its standard streams."""
        self.count += 1
        return Godwit(self, [str(a) for a in args],
                      tag or f"{args[0]}{self.count}", fds=fds)

    def list(self):
        """VMs by name, as `godwit list --json` has them."""
        out = subprocess.run([GODWIT, "list", "--json"], env=self.environ,
                             stdin=subprocess.DEVNULL, capture_output=True,
                             text=True, timeout=60, check=True).stdout
        return {vm["name"]: vm for vm in json.loads(out)}

    def receive(self, guest, uri="tcp:127.0.0.1:0", *options, fds=()):
        """Start `godwit receive` into a guest, or a file's path; it and the
        URI it listens at."""
        into = guest
        if isinstance(guest, Guest):
            guest.wait_up()
            into = guest.name
        g = self.godwit("receive", uri, into, "--json", *options, fds=fds)

        def listening():
            assert g.proc.poll() is None, g.stderr()
            e = [x for x in g.events() if x["event"] == "listening"]
            return e and e[0]["uri"]
        return g, wait_until("listening godwit", listening)

    def migrate(self, guest, uri, *options, fds=()):
        return self.godwit("migrate", guest.name, uri, "--json", *options,
                           fds=fds)

    def move(self, source, dest, *options, uri="tcp:127.0.0.1:0", to=None,
             sockets=()):
        """One whole move with --verify; both ends must succeed. @to: where
        the source connects if not to what the destination listens at;
        @sockets: a pair, one for each to inherit (they are closed here)."""
        rx_fds, tx_fds = [[s.fileno()] for s in sockets] or ((), ())
        rx, at = self.receive(dest, uri, fds=rx_fds)
        tx = self.migrate(source, to or at, "--verify", *options, fds=tx_fds)
        for s in sockets:
            s.close()
        code = tx.wait()
        assert code == OK, tx.stderr() + rx.stderr()
        assert rx.wait() == OK, rx.stderr()
        result = tx.result()
        assert result["status"] == "completed"
        # Pages hinted free and not used since are compared with zeros.
        hints = result.get("free-page-hint", {"not-compared": 0})
        assert result["verified-pages"] + hints["not-compared"] == \
            result["ram"]["total"] // 4096
        assert source.status() == "postmigrate"
        return result

    def close(self):
        for p in reversed(self.procs):
            if p.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(p.pid, signal.SIGKILL)
            p.wait()
        for d in self.daemons:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(d, signal.SIGKILL)
            os.close(d)
        self.daemons.clear()


def assert_one_story(*guests):
    """What these QEMUs, each moved to the next, wrote on their consoles is
    one guest's text without a byte lost or written twice: ticks in unbroken
    order and nothing else, time and counters never going back, the checksum
    constant, no damage. Its ticks."""
    text = ""
    for g in guests:
        with open(g.console, errors="replace") as f:
            text += f.read()
    lines = text[:text.rfind("\n") + 1].splitlines()
    first = next(i for i, x in enumerate(lines) if TICK.match(x))
    odd = [x for x in lines[first:] if not TICK.match(x)]
    assert not odd, odd[:5]
    ticks = [Tick(TICK.match(x)) for x in lines[first:]]
    for a, b in zip(ticks, ticks[1:]):
        assert b.n == a.n + 1 and b.ms >= a.ms and b.sum == a.sum and \
            b.dirty >= a.dirty and b.direct >= a.direct and \
            b.loop >= a.loop, (a, b)
    assert ticks[-1].bad == 0
    return ticks


class Pair:
    """Two VMs that survive test after test: one runs, one waits."""

    def __init__(self, env):
        self.env, self.count, self.a, self.b = env, 0, None, None
        self.hurt = True

    def new(self, **kw):
        self.count += 1
        return self.env.guest(f"v{self.count}", **kw)

    def ready(self):
        if self.hurt:
            for g in self.a, self.b:
                if g:
                    g.kill()
            self.a, self.b = self.new(), self.new(incoming=True)
            self.a.wait_tick(20)
            self.b.wait_up()
        self.hurt = True
        self.n = self.a.ticks()[-1].n

    def unharmed(self):
        """The source runs, the destination waits and its RAM is empty."""
        a, b = self.a, self.b
        assert a.running() and b.status() == "inmigrate"
        a.wait_tick(self.n + 3)
        assert_one_story(a)
        assert ram_in_use(b) == 0
        for g in a, b:
            assert self.env.list()[g.name]["handover"] is None
        self.hurt = False

    def move(self):
        """A real one from a to b; what it takes is a pair again after it."""
        self.env.move(self.a, self.b)
        self.b.wait_more_ticks(5)
        assert_one_story(self.a, self.b)
        self.a.kill()
        self.a, self.b = self.b, self.new(incoming=True)
        self.b.wait_up()
        # The console of its life here is the second part of a story.
        self.hurt = False


def ram_path(guest):
    """The file behind its RAM, as its QEMU has it open."""
    folder = f"/proc/{guest.pid}/fd"
    for fd in os.listdir(folder):
        path = os.path.join(folder, fd)
        with contextlib.suppress(OSError):
            if "godwit-pc.ram" in os.readlink(path):
                return path
    raise AssertionError(f"no RAM file in {guest.name}")


def ram_in_use(guest):
    """Bytes allocated in the file behind its RAM."""
    return os.stat(ram_path(guest)).st_blocks * 512


class Stage:
    """A guest that survives most rows of a table, in one QEMU after the
    other. @kw: of the guest."""

    def __init__(self, env, version, prefix, **kw):
        self.env, self.prefix = env, prefix
        self.kw = {"version": version, **kw}
        self.count, self.at, self.whole = 0, None, False

    def fresh(self, incoming=True):
        self.count += 1
        return self.env.guest(f"{self.prefix}{self.count}",
                              incoming=incoming, **self.kw)

    def board(self):
        if not self.whole or not self.at:
            if self.at:
                self.at.kill()
            self.at = self.fresh(incoming=False)
            self.at.wait_tick(10)
        self.whole = False  # until the test says so
        return self.at

    def stays(self):
        self.at.wait_more_ticks(5)
        assert_one_story(self.at)
        self.whole = True

    def arrived(self, guest):
        self.at.kill()
        self.at, self.whole = guest, True


def stages(tmp_path_factory, name, make):
    """For a fixture (yield from): a function that has the stage of a version
    of QEMU, which make(env, version, **kw) makes when it is first asked for."""
    import pytest
    for path in (GODWIT, os.path.join(GUEST, "initrd.gz")):
        if not os.path.exists(path):
            pytest.skip(f"{path} is missing: run the tests by 'make check'")
    made = {}

    def get(version, **kw):
        if not qemu_path(version):
            pytest.skip(f"QEMU {version} could not be unpacked on this machine"
                        f" (scripts/get-qemu {version} says why)")
        key = version, repr(kw)
        if key not in made:
            made[key] = make(Env(tmp_path_factory.mktemp(name)), version, **kw)
        return made[key]
    yield get
    for stage in made.values():
        stage.env.close()


@contextlib.contextmanager
def pausing(env, point):
    """What is started within stops itself at @point (lib/base/pause.h)."""
    if point:
        env.environ["GODWIT_TEST_PAUSE"] = point
    yield
    env.environ.pop("GODWIT_TEST_PAUSE", None)


def state(pid):
    """The letter that the kernel gives a process's state."""
    with open(f"/proc/{pid}/stat") as f:
        return f.read().rsplit(")", 1)[1].split()[0]


def stopped(g):
    """Is the process stopped by a signal?"""
    return state(g.pid) == "T"


def has_ended(pid):
    """Are its files closed? Its memory goes first, and with it what /proc says
    of its environment."""
    try:
        return state(pid) in "ZX"
    except OSError:
        return True


def guardians(env):
    """The pids of the guardians in this test's folder."""
    mine = f"GODWIT_RUNTIME_DIR={env.rundir}\0".encode()
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/comm") as f:
                if f.read() != "gw-guardian\n":
                    continue
            with open(f"/proc/{pid}/environ", "rb") as f:
                if mine in f.read():
                    found.append(int(pid))
    return found


def is_paused(g):
    """Does it stand at its point?"""
    return "paused at " in g.stderr() and stopped(g)


def table(text, title):
    """The cells of the table below a heading, without its two first rows."""
    part = re.search(rf"^#+ {re.escape(title)}$(.*?)(?=^#|\Z)", text,
                     re.M | re.S)[1]
    rows = [[c.strip() for c in line.strip().strip("|").split("|")]
            for line in part.splitlines() if line.startswith("|")]
    return rows[2:]


def said(godwit):
    """Its own words: the last line of stderr, and no log."""
    lines = [x for x in godwit.stderr().splitlines()
             if not re.match(r"godwit: (info|debug|trace):", x)]
    return lines[-1] if lines else ""


def make_disk(path, mib):
    """An image the guest can verify (gw.direct); its path."""
    subprocess.run([os.path.join(TOP, "scripts", "make-disk"), str(path),
                    str(mib)], check=True, timeout=300,
                   stdin=subprocess.DEVNULL, capture_output=True,
                   env=dict(os.environ, GODWIT_DEPS=DEPS))
    return str(path)


def qemu_img(*args):
    """What qemu-img says; the test is skipped where there is none."""
    import pytest
    tool = os.path.join(DEPS, "qemu-img", "qemu-img")
    if not os.path.exists(tool):
        get = subprocess.run([os.path.join(TOP, "scripts", "get-qemu-img")],
                             stdin=subprocess.DEVNULL, capture_output=True,
                             text=True, timeout=600,
                             env=dict(os.environ, GODWIT_DEPS=DEPS))
        if get.returncode:
            pytest.skip(f"no qemu-img: {get.stderr.strip()}")
    p = subprocess.run([tool, *[str(a) for a in args]],
                       stdin=subprocess.DEVNULL, capture_output=True,
                       text=True, timeout=300)
    assert p.returncode == 0, p.stdout + p.stderr
    return p.stdout


def takes_direct_io(path):
    """Can @path be read with O_DIRECT?"""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    except OSError:
        return False
    buffer = mmap.mmap(-1, 4096)
    try:
        return os.preadv(fd, [buffer], 0) == 4096
    except OSError:
        return False
    finally:
        buffer.close()
        os.close(fd)


def assert_continues(source, dest, ticks=10):
    """The destination goes on where the source ended: counter +1, same
    checksum, no damage seen by the guest's own checks."""
    before = source.assert_healthy()
    dest.wait_tick(before[-1].n + ticks)
    after = dest.assert_healthy()
    # The tick that was being written while the VM stopped may be torn: its
    # second half is on the destination's console.
    assert 0 <= after[0].n - before[-1].n - 1 <= 1, (before[-1], after[0])
    assert after[0].sum == before[-1].sum
    return after
