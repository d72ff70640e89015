# SPDX-License-Identifier: BSD-3-Clause
"""What the benches share: QEMUs with a real Linux guest whose consoles are
read by one thread with one clock, moved by godwit or by QEMU itself.

Both sides get the same QEMU program, the same guest and the same options;
godwit's are started by `godwit run`, the others plainly, with private RAM.
"""
import contextlib
import json
import mmap
import os
import re
import resource
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import report

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.environ.get("GODWIT_BUILD", os.path.join(TOP, "build"))
DEPS = os.environ.get("GODWIT_DEPS", os.path.join(TOP, ".deps"))
GODWIT = os.path.join(BUILD, "cli", "godwit")
GUEST = os.path.join(DEPS, "guest")
CONVERGE, CANCELLED = 5, 7  # exit codes of godwit
# Of `godwit run`, which as root makes RAM of transparent huge pages, as QEMU
# does of its private RAM.
SMALL_PAGES = ["--no-transparent-hugepages"]
BOOT_S = 180
MOVE_S = 180
MIB = 1 << 20
TOUCH_MIB = 2048  # at most
TICK = re.compile(rb"^tick (\d+) (\d+) sum=([0-9a-f]{16}) dirty=(\d+) "
                  rb"direct=(\d+) bad=(\d+)(?: loop=(\d+))?$")


class Failed(Exception):
    """What went wrong, for a person."""


class CannotRun(Failed):
    """This machine has not what it takes."""


class Tick:
    def __init__(self, match, at):
        self.n, self.sum, self.bad = int(match[1]), match[3], int(match[6])
        self.ms = int(match[2])  # the guest's own clock
        self.loop = int(match[7] or 0)
        self.at = at  # seconds, time.monotonic() of its last byte


class Console:
    """One guest's serial port: a socket that QEMU connects to."""

    def __init__(self, path):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen(1)
        self.path = path
        self.rest = b""   # of a line
        self.lines = []   # (arrival of the last byte, bytes)
        self.ticks = []
        self.sock = None

    def take(self, data, at):
        *lines, self.rest = (self.rest + data).split(b"\n")
        for line in lines:
            self.lines.append((at, line))
            m = TICK.match(line)
            if m:
                self.ticks.append(Tick(m, at))

    def text(self):
        return b"\n".join(x for _, x in self.lines).decode(errors="replace")


class Reader(threading.Thread):
    """Reads every console; a chunk's time is that of its poll."""

    def __init__(self):
        super().__init__(daemon=True)
        self.epoll = select.epoll()
        self.by_fd = {}
        self.start()

    def add(self, console):
        fd = console.listener.fileno()
        self.by_fd[fd] = console
        self.epoll.register(fd, select.EPOLLIN)

    def run(self):
        with contextlib.suppress(OSError):  # a busy host: be there in time
            os.sched_setscheduler(threading.get_native_id(), os.SCHED_FIFO,
                                  os.sched_param(1))
        sys.setswitchinterval(0.0005)
        while True:
            for fd, _ in self.epoll.poll():
                at = time.monotonic()
                console = self.by_fd.get(fd)
                if not console:
                    continue
                if console.sock is None:
                    console.sock = console.listener.accept()[0]
                    self.epoll.unregister(fd)
                    self.by_fd[console.sock.fileno()] = console
                    self.epoll.register(console.sock, select.EPOLLIN)
                    continue
                data = console.sock.recv(65536)
                if data:
                    console.take(data, at)
                else:
                    self.epoll.unregister(fd)


class Qmp:
    def __init__(self, path, timeout=MOVE_S):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(timeout)
        self.sock.connect(path)
        self.file = self.sock.makefile("rw")
        self.events = []
        self.file.readline()
        self("qmp_capabilities")

    def close(self):
        self.file.close()
        self.sock.close()

    def message(self):
        line = self.file.readline()
        if not line:
            raise Failed("QEMU closed its monitor")
        m = json.loads(line)
        if "event" in m:
            self.events.append(m)
        return m

    def __call__(self, command, **arguments):
        self.file.write(json.dumps({"execute": command,
                                    "arguments": arguments}) + "\n")
        self.file.flush()
        while True:
            m = self.message()
            if "error" in m:
                raise Failed(f"{command}: {m['error']['desc']}")
            if "return" in m:
                return m["return"]

    def wait_migration(self, limit=None):
        """Until its MIGRATION events say that it is over; its statistics.
        @limit: cancel it after so many seconds."""
        if limit:
            return self.poll_migration(limit)
        while True:
            for e in self.events:
                status = e.get("data", {}).get("status")
                if e["event"] != "MIGRATION":
                    continue
                if status == "completed":
                    return self("query-migrate")
                if status in ("failed", "cancelled"):
                    raise Failed(f"QEMU's own migration {status}")
            self.message()

    def poll_migration(self, limit):
        last, cancel = None, time.monotonic() + limit
        end = cancel + MOVE_S
        while time.monotonic() < end:
            now = self("query-migrate")
            status = now["status"]
            if status == "completed":
                return now
            if status == "cancelled" and last:
                return {**last, "status": status}
            if status in ("failed", "cancelled"):
                raise Failed(f"QEMU's own migration {status}: {now}")
            if not last and time.monotonic() > cancel:
                last = now  # has no numbers when it is cancelled
                self("migrate_cancel")
            time.sleep(0.02)
        raise Failed(f"QEMU does not end a migration that was cancelled: "
                     f"{now}")


class Events(threading.Thread):
    """What a godwit with --json says, read as it comes: a pipe that is full
    would stop it."""

    def __init__(self, proc):
        super().__init__(daemon=True)
        self.proc, self.list = proc, []
        self.start()

    def run(self):
        for line in self.proc.stdout:
            self.list.append(json.loads(line))

    def uri(self):
        """Where it listens, None yet."""
        return next((e["uri"] for e in self.list
                     if e["event"] == "listening"), None)

    def last(self):
        self.join()
        return self.list[-1] if self.list else {}


def wait_until(what, fn, timeout, step=0.02):
    end = time.monotonic() + timeout
    while True:
        value = fn()
        if value:
            return value
        if time.monotonic() > end:
            raise Failed(f"no {what} within {timeout} s")
        time.sleep(step)


class Guest:
    """A QEMU with the guest; @own: plain QEMU, else by `godwit run`."""

    def __init__(self, lab, name, own, incoming=False):
        self.lab, self.name, self.own = lab, name, own
        self.console = Console(os.path.join(lab.dir, name + ".tty"))
        lab.reader.add(self.console)
        self.qmp_path = os.path.join(lab.dir, name + ".qmp")
        o = lab.options
        command = [lab.qemu, "-accel", o.accel, "-m", str(o.memory),
                   "-smp", str(o.cpus), "-nodefaults", "-display", "none",
                   "-no-reboot", "-kernel", os.path.join(GUEST, "vmlinux"),
                   "-initrd", os.path.join(GUEST, "initrd.gz"), "-append",
                   "console=ttyS0 quiet panic=-1 " + o.guest,
                   "-serial", "unix:" + self.console.path,
                   "-qmp", f"unix:{self.qmp_path},server=on,wait=off"]
        command += lab.extra(own)
        if own and incoming:
            command += ["-incoming", "defer"]
        if not own:
            command = [GODWIT, "run", name,
                       *(["--incoming"] if incoming else []),
                       *lab.run_options, "--", *command]
        self.proc = lab.start(command, name)

    def wait_tick(self, n=1, timeout=BOOT_S):
        def last():
            if self.proc.poll() is not None:
                raise Failed(f"QEMU {self.name} ended:\n"
                             f"{self.lab.log(self.name)}\n"
                             f"{self.console.text()[-1000:]}")
            t = self.console.ticks
            return t[-1] if t and t[-1].n >= n else None
        return wait_until(f"tick {n} of {self.name}", last, timeout)

    def wait_qmp(self):
        def connect():
            try:
                return Qmp(self.qmp_path)
            except (FileNotFoundError, ConnectionRefusedError):
                return None
        return wait_until(f"monitor of {self.name}", connect, 30)

    def ask(self, command):
        with contextlib.closing(self.wait_qmp()) as q:
            return q(command)


def channels(n):
    return f"{n} channel{'s' if n > 1 else ''}"


def touch_memory(mib):
    """The host of a virtual machine may take what nobody uses, and gives it
    back when it is touched, many times slower than memory that is there. What
    the last run happened to leave must not decide: as much as a guest needs is
    touched right before, and freed."""
    size = min(mib, TOUCH_MIB) * MIB
    with contextlib.closing(mmap.mmap(
            -1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)) as m:
        with contextlib.suppress(OSError):  # there are none
            m.madvise(mmap.MADV_HUGEPAGE)
        for at in range(0, size, mmap.PAGESIZE):
            m[at] = 1


def memory_kb(pid, kind="RssAnon:"):
    """KiB of private (or other) memory of a process, 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/status") as f:
            for line in f:
                if line.startswith(kind):
                    return int(line.split()[1])
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0


def cpu_s(pid):
    """CPU seconds of a process and all threads it had."""
    with open(f"/proc/{pid}/stat") as f:
        after_name = f.read().rpartition(")")[2].split()
    return sum(map(int, after_name[11:13])) / os.sysconf("SC_CLK_TCK")


def children_cpu_s():
    """CPU seconds of those that have ended and were waited for."""
    u = resource.getrusage(resource.RUSAGE_CHILDREN)
    return u.ru_utime + u.ru_stime


class Move:
    """What one migration cost. Times in ms, memory in KiB."""

    def __init__(self):
        self.total = self.downtime = self.gap = None
        self.sent = None          # bytes
        self.cpu = None           # seconds, of all four processes
        self.memory = 0           # private, both godwits together
        self.mapped = 0           # shared, that `godwit migrate` has mapped
        self.growth = 0           # resident, of the source: its QEMU and godwit
        self.completed = True
        self.raw = None           # the program's own statistics

    def values(self):
        """Under the names of MOVE_METRICS."""
        return {"total-ms": self.total, "sent-bytes": self.sent,
                "downtime-ms": self.downtime, "gap-ms": self.gap,
                "cpu-s": self.cpu, "growth-kib": self.growth,
                "memory-kib": self.memory or None}


MOVE_METRICS = {m.key: m for m in (
    report.Metric("total-ms", "total ms", factor=True),
    report.Metric("sent-bytes", "sent MiB", 1 / MIB, ".1f"),
    report.Metric("downtime-ms", "downtime ms", form=".1f"),
    report.Metric("gap-ms", "gap ms", form=".1f", factor=True),
    report.Metric("cpu-s", "CPU s, both sides", form=".2f"),
    report.Metric("growth-kib", "source grew by MiB", 1 / 1024, ".1f"),
    report.Metric("memory-kib", "godwit's own MiB", 1 / 1024, ".1f"))}


def move_metrics(*keys):
    return [MOVE_METRICS[k] for k in keys]


class Meter(threading.Thread):
    """What a move takes from the machine, into @move: CPU time from begin() to
    exit, and the largest memory seen, looked at every 10 ms."""

    def __init__(self, move, a, b):
        super().__init__(daemon=True)
        self.memory = a.lab.options.memory
        self.move, self.source = move, a.proc.pid
        self.pids = a.proc.pid, b.proc.pid
        self.migrate = self.receive = None  # pids, once they are known
        self.over = False

    def cpu(self):
        return children_cpu_s() + sum(map(cpu_s, self.pids))

    def resident(self):
        return sum(memory_kb(self.source, k) for k in ("RssAnon:",
                                                       "RssShmem:"))

    def __enter__(self):
        self.before = self.resident()
        self.start()
        return self

    def begin(self):
        """As late as can be: what is freed here goes cold in a second."""
        touch_memory(self.memory)
        self.cpu_before = self.cpu()

    def run(self):
        m = self.move
        while not self.over:
            ours = memory_kb(self.migrate) if self.migrate else 0
            m.growth = max(m.growth, self.resident() + ours - self.before)
            if self.receive:
                m.memory = max(m.memory, ours + memory_kb(self.receive))
                m.mapped = max(m.mapped, memory_kb(self.migrate, "RssShmem:"))
            time.sleep(0.01)

    def __exit__(self, *_):
        self.over = True
        self.join()
        with contextlib.suppress(FileNotFoundError):  # a QEMU has died
            self.move.cpu = self.cpu() - self.cpu_before


def gap_ms(source, dest):
    """From the last tick seen before the move to the first one after it.

    A line that the stop tore is put together: it belongs to the
    destination's console, where its end came out.
    """
    last, c = source.console.ticks[-1], dest.console
    at, line = c.lines[0]
    torn = TICK.match(source.console.rest + line)
    if torn:
        first = Tick(torn, at)
    else:
        first = c.ticks[0]
    if first.n != last.n + 1:
        raise Failed(f"the counter went from {last.n} to {first.n}")
    if c.ticks[-1].bad or c.ticks[-1].sum != last.sum:
        raise Failed(f"the guest is damaged: {c.text()[-500:]}")
    return (first.at - last.at) * 1000


class Lab:
    """A directory and all that is started in it; options see arguments()."""

    def __init__(self, options):
        self.options = options
        self.qemu = options.qemu or find_qemu()
        for path in (GODWIT, os.path.join(GUEST, "initrd.gz")):
            if not os.path.exists(path):
                raise CannotRun(f"{path} is missing: run make and "
                             "scripts/make-guest, or set GODWIT_BUILD and "
                             "GODWIT_DEPS")
        # Runtime folders are on a tmpfs (/run, /run/user/N) everywhere.
        self.dir = tempfile.mkdtemp(prefix="godwit-bench.", dir="/dev/shm"
                                    if os.access("/dev/shm", os.W_OK)
                                    else None)
        self.rundir = os.path.join(self.dir, "run")
        os.mkdir(self.rundir, 0o700)
        self.environ = dict(os.environ, GODWIT_RUNTIME_DIR=self.rundir)
        self.reader = Reader()
        self.extra = lambda own: []  # options for every QEMU
        self.run_options = []        # for `godwit run`
        self.procs, self.count = [], 0
        self.cleanup = contextlib.ExitStack()  # when all has been killed

    def __enter__(self):
        for sig in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(sig, lambda *_: sys.exit(1))
        return self

    def __exit__(self, *_):
        self.kill()
        self.cleanup.close()
        shutil.rmtree(self.dir, ignore_errors=True)

    def kill(self):
        for p in reversed(self.procs):
            if p.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    p.kill()
            p.wait()
        self.procs.clear()

    def log(self, tag):
        with open(os.path.join(self.dir, tag + ".log"),
                  errors="replace") as f:
            return f.read()

    def start(self, argv, tag, stdout=None):
        with open(os.path.join(self.dir, tag + ".log"), "w") as log:
            p = subprocess.Popen(argv, stdin=subprocess.DEVNULL,
                                 stdout=stdout or log, stderr=log,
                                 env=self.environ, start_new_session=True)
        self.procs.append(p)
        return p

    def guest(self, name, own, incoming=False):
        self.count += 1
        return Guest(self, f"{name}{self.count}", own, incoming)

    def end(self, guest):
        guest.proc.kill()
        guest.proc.wait()
        self.procs.remove(guest.proc)

    def pair(self, own):
        """A guest that runs and a QEMU that waits for it."""
        a = self.guest("a", own)
        b = self.guest("b", own, incoming=True)
        first = a.wait_tick()
        a.wait_tick(first.n + max(1, self.options.settle // a_period(a)))
        return a, b

    def listener(self, command, b, *options):
        """`godwit @command` that listens for @b: the process, and its URI."""
        def listening():
            if rx.poll() is not None:
                raise Failed(f"godwit {command}: " + self.log(command))
            return said.uri()

        b.wait_qmp()
        uri = "tcp:127.0.0.1:0" if self.options.tcp else \
            f"unix:{self.dir}/godwit{self.count}.sock"
        rx = self.start([GODWIT, command, uri, b.name, "--json", *options],
                        command, subprocess.PIPE)
        said = Events(rx)
        return rx, wait_until("listening godwit", listening, 30)

    def godwit_move(self, a, b, *options, limit=None):
        """@limit: give up after so many seconds; then, and when it does not
        converge, .completed is false."""
        m = Move()
        with Meter(m, a, b) as meter:
            rx, at = self.listener("receive", b)
            meter.begin()
            tx = self.start([GODWIT, "migrate", a.name, at, "--json",
                             *options], "migrate", subprocess.PIPE)
            events = Events(tx)
            meter.migrate, meter.receive = tx.pid, rx.pid
            codes = wait_both(tx, rx, limit)
        m.completed = not any(codes)
        if not m.completed and not (limit and codes[0] in (CONVERGE,
                                                           CANCELLED)):
            raise Failed("godwit: " + self.log("migrate") +
                         self.log("receive"))
        m.raw = events.last()
        m.total, m.sent = m.raw["total-time"], m.raw["ram"]["transferred"]
        if m.completed:
            m.downtime = m.raw["downtime-us"] / 1e3
        return m

    def qemu_uri(self):
        if not self.options.tcp:
            return f"unix:{self.dir}/qemu{self.count}.sock"
        with socket.socket() as s:  # a port that is free just now
            s.bind(("127.0.0.1", 0))
            return f"tcp:127.0.0.1:{s.getsockname()[1]}"

    def qemu_move(self, a, b, *capabilities, limit=None, **parameters):
        """By QEMU, with these on at both ends ("_" for "-"). @limit: see
        godwit_move()."""
        with contextlib.closing(a.wait_qmp()) as qa, \
                contextlib.closing(b.wait_qmp()) as qb:
            uri = self.qemu_uri()
            m = Move()
            for q in qa, qb:
                q("migrate-set-capabilities", capabilities=[
                    {"capability": c["capability"],
                     "state": c["capability"] in ("events", *capabilities)}
                    for c in q("query-migrate-capabilities")])
                q("migrate-set-parameters", **{
                    "max-bandwidth": 1 << 40, "downtime-limit": 300,
                    **{k.replace("_", "-"): v for k, v in parameters.items()}})
            with Meter(m, a, b) as meter:
                qb("migrate-incoming", uri=uri)
                meter.begin()
                qa("migrate", uri=uri)
                m.raw = qa.wait_migration(limit)
            m.completed = m.raw["status"] == "completed"
            m.sent = m.raw["ram"]["transferred"]
            if m.completed:
                m.total, m.downtime = m.raw["total-time"], m.raw["downtime"]
            return m

    @contextlib.contextmanager
    def ahead_of_others(self):
        """With --realtime: other load of the machine does not count."""
        if not self.options.realtime:
            yield
            return
        urgent, usual = (os.SCHED_RR, 1), (os.SCHED_OTHER, 0)
        tasks = [int(t) for p in self.procs if p.poll() is None
                 for t in os.listdir(f"/proc/{p.pid}/task")]
        for task in [*tasks, 0]:  # 0: what we start from now on
            with contextlib.suppress(ProcessLookupError):
                os.sched_setscheduler(task, urgent[0],
                                      os.sched_param(urgent[1]))
        try:
            yield
        finally:
            os.sched_setscheduler(0, usual[0], os.sched_param(usual[1]))

    def move(self, own, *options, **qemu):
        """Boot, move, look at the guest; everything is ended again. @options
        are godwit's, or QEMU's capabilities, @qemu its parameters."""
        try:
            a, b = self.pair(own)
            with self.ahead_of_others():
                m = self.qemu_move(a, b, *options, **qemu) if own else \
                    self.godwit_move(a, b, *options)
                b.wait_tick(a.console.ticks[-1].n + 3)
            m.gap = gap_ms(a, b)
            return m
        finally:
            self.kill()


def a_period(guest):
    """ms per tick, as asked for on the guest's command line."""
    m = re.search(r"gw\.tick=(\d+)", guest.lab.options.guest)
    return int(m[1]) if m else 100


def wait_both(tx, rx, limit):
    """Until both godwits have ended; after @limit seconds with help. Codes."""
    end = time.monotonic() + (limit or float("inf"))
    while tx.poll() is None and rx.poll() is None:
        if time.monotonic() > end:
            tx.send_signal(signal.SIGINT)
            break
        time.sleep(0.005)
    return tx.wait(), rx.wait()


def find_qemu():
    r = subprocess.run([os.path.join(TOP, "scripts", "find-qemu")],
                       stdout=subprocess.PIPE, text=True)
    if r.returncode:
        raise CannotRun("no QEMU (scripts/find-qemu says why)")
    return r.stdout.strip()
