# SPDX-License-Identifier: BSD-3-Clause
"""What the benches share: QEMUs with a real Linux guest whose consoles are
read by one thread with one clock, moved by godwit or by QEMU itself.

Both sides get the same QEMU program, the same guest and the same options;
godwit's are started by `godwit run`, the others plainly, with private RAM.
"""
import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.environ.get("GODWIT_BUILD", os.path.join(TOP, "build"))
DEPS = os.environ.get("GODWIT_DEPS", os.path.join(TOP, ".deps"))
GODWIT = os.path.join(BUILD, "cli", "godwit")
GUEST = os.path.join(DEPS, "guest")
CONVERGE, CANCELLED = 5, 7  # exit codes of godwit
BOOT_S = 180
MOVE_S = 180
TICK = re.compile(rb"^tick (\d+) (\d+) sum=([0-9a-f]{16}) dirty=(\d+) "
                  rb"direct=(\d+) bad=(\d+)(?: loop=(\d+))?$")


class Failed(Exception):
    """What went wrong, for a person."""


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
                   "-no-reboot", "-kernel", os.path.join(GUEST, "vmlinuz"),
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

    def private_kb(self):
        return rss_anon(self.proc.pid)


def rss_anon(pid, kind="RssAnon:"):
    """KiB of private (or other) memory of a process, 0 when it is gone."""
    try:
        with open(f"/proc/{pid}/status") as f:
            for line in f:
                if line.startswith(kind):
                    return int(line.split()[1])
    except (FileNotFoundError, ProcessLookupError):
        pass
    return 0


class Move:
    """What one migration cost. Times in ms."""

    def __init__(self):
        self.total = self.downtime = self.gap = None
        self.sent = None          # bytes
        self.memory = None        # KiB, private, both godwits together
        self.completed = True
        self.raw = None           # the program's own statistics


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
                raise Failed(f"{path} is missing: run make and "
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

    def __enter__(self):
        for sig in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(sig, lambda *_: sys.exit(1))
        return self

    def __exit__(self, *_):
        self.kill()
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

    def pair(self, own):
        """A guest that runs and a QEMU that waits for it."""
        self.count += 1
        a = Guest(self, f"a{self.count}", own)
        b = Guest(self, f"b{self.count}", own, incoming=True)
        first = a.wait_tick()
        a.wait_tick(first.n + max(1, self.options.settle // a_period(a)))
        return a, b

    def godwit_move(self, a, b, *options, limit=None):
        """@limit: give up after so many seconds; then, and when it does not
        converge, .completed is false."""
        def listening():
            if rx.poll() is not None:
                raise Failed("godwit receive: " + self.log("receive"))
            return said.uri()

        b.wait_qmp()
        uri = "tcp:127.0.0.1:0" if self.options.tcp else \
            f"unix:{self.dir}/godwit{self.count}.sock"
        rx = self.start([GODWIT, "receive", uri, b.name, "--json"],
                        "receive", subprocess.PIPE)
        said = Events(rx)
        at = wait_until("listening godwit", listening, 30)
        tx = self.start([GODWIT, "migrate", a.name, at, "--json", *options],
                        "migrate", subprocess.PIPE)
        events = Events(tx)
        m = Move()
        m.memory = watch_memory(tx, rx, limit=limit)
        if limit and tx.poll() is None and rx.poll() is None:
            tx.send_signal(signal.SIGINT)
        codes = tx.wait(), rx.wait()
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

    def qemu_move(self, a, b, *capabilities, limit=None, **parameters):
        """By QEMU, with these on at both ends ("_" for "-"). @limit: see
        godwit_move()."""
        qa, qb = a.wait_qmp(), b.wait_qmp()
        uri = f"unix:{self.dir}/qemu{self.count}.sock"
        if self.options.tcp:
            with socket.socket() as s:  # a port that is free just now
                s.bind(("127.0.0.1", 0))
                uri = f"tcp:127.0.0.1:{s.getsockname()[1]}"
        for q in qa, qb:
            q("migrate-set-capabilities", capabilities=[
                {"capability": c, "state": True}
                for c in ("events", *capabilities)])
            q("migrate-set-parameters", **{
                "max-bandwidth": 1 << 40, "downtime-limit": 300,
                **{k.replace("_", "-"): v for k, v in parameters.items()}})
        qb("migrate-incoming", uri=uri)
        m = Move()
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

    def move(self, own, *options):
        """Boot, move, look at the guest; everything is ended again."""
        try:
            a, b = self.pair(own)
            with self.ahead_of_others():
                m = self.qemu_move(a, b) if own else \
                    self.godwit_move(a, b, *options)
                b.wait_tick(a.console.ticks[-1].n + 3)
            m.gap = gap_ms(a, b)
            m.vm_memory = b.private_kb()
            return m
        finally:
            self.kill()


def a_period(guest):
    """ms per tick, as asked for on the guest's command line."""
    m = re.search(r"gw\.tick=(\d+)", guest.lab.options.guest)
    return int(m[1]) if m else 100


def watch_memory(*procs, limit=None):
    """Largest sum of their private memory, KiB, until the first one ends or
    @limit seconds are over."""
    top, end = 0, time.monotonic() + (limit or float("inf"))
    while all(p.poll() is None for p in procs) and time.monotonic() < end:
        top = max(top, sum(rss_anon(p.pid) for p in procs))
        time.sleep(0.01)
    return top


def find_qemu():
    r = subprocess.run([os.path.join(TOP, "scripts", "find-qemu")],
                       stdout=subprocess.PIPE, text=True)
    if r.returncode:
        raise Failed("no QEMU (scripts/find-qemu says why)")
    return r.stdout.strip()


def arguments(parser, runs, memory, guest, settle=1000):
    parser.add_argument("-n", "--runs", type=int, default=runs,
                        help=f"moves of each side ({runs})")
    parser.add_argument("--qemu", help="QEMU program (scripts/find-qemu)")
    parser.add_argument("--memory", type=int, default=memory, metavar="MIB",
                        help=f"RAM of the guest ({memory})")
    parser.add_argument("--cpus", type=int, default=1,
                        help="of the guest (1)")
    parser.add_argument("--guest", default=guest, metavar="OPTIONS",
                        help=f"its kernel command line ('{guest}')")
    parser.add_argument("--settle", type=int, default=settle, metavar="MS",
                        help="let it run before the move, in its own time "
                        f"({settle})")
    parser.add_argument("--accel", default="tcg,thread=multi")
    parser.add_argument("--tcp", action="store_true",
                        help="TCP on loopback instead of a unix socket")
    parser.add_argument("--realtime", action="store_true",
                        help="both sides' processes before all others while "
                        "they move (root; for a machine that is not idle)")
    parser.add_argument("--json", action="store_true",
                        help="one JSON object with every raw number")
    return parser


def alternate(lab, runs, say):
    """@runs moves of each side, A B A B. Return: {"godwit": [...], ...}."""
    out = {"godwit": [], "QEMU": []}
    for i in range(runs):
        for side in out:
            m = lab.move(side == "QEMU")
            out[side].append(m)
            say(f"{i + 1}/{runs} {side:<7} gap {m.gap:7.1f} ms  downtime "
                f"{m.downtime:7.1f} ms  total {m.total:6.0f} ms  "
                f"sent {m.sent / 2**20:7.1f} MiB")
    return out


def quartiles(values):
    v = sorted(values)
    return v[0], statistics.median(v), v[-1]


def main(run, parser):
    options = parser.parse_args()
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    try:
        with Lab(options) as lab:
            return run(lab, options)
    except Failed as e:
        print(f"{parser.prog}: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
