# SPDX-License-Identifier: BSD-3-Clause
"""A running Linux guest moves; the guest checks its own memory all the time
and --verify compares all of RAM while the VM stands.

Booting a guest costs more than moving it, so most tests move the same one on
and on: see `traveller`. Each of them therefore also moves a VM whose RAM was
placed by godwit, parts of which QEMU's page tables do not know.
"""
import contextlib
import os
import re
import shutil
import socket
import sys
import tempfile

import pytest

from harness import (CONVERGE, OK, SMALL_PAGES, USAGE, assert_one_story,
                     make_disk, qemu_path, takes_direct_io, wait_until,
                     why_small_pages)

TCP = "tcp:127.0.0.1:0"
PAGE = 4096


class Traveller:
    """A guest with an active writer and one place after the other for it."""

    def __init__(self, env, **kw):
        self.env, self.kw, self.count, self.at = env, kw, 0, None
        self.moving = False

    def fresh(self, incoming=True, **kw):
        """Another QEMU for it."""
        self.count += 1
        return self.env.guest(f"t{self.count}", incoming=incoming,
                              **{**self.kw, **kw})

    def board(self):
        """The guest, running; a new one if a test left it half way."""
        if self.moving or not self.at:
            if self.at:
                self.at.kill()
            self.at = self.fresh(incoming=False)
        self.moving = True
        self.at.wait_tick(20)
        return self.at

    def into_small_pages(self):
        """Once more, to where uffd-wp can track it."""
        dest = self.fresh(run_options=SMALL_PAGES)
        self.env.move(self.at, dest)
        self.arrived(dest)
        self.board()

    def arrived(self, dest):
        """It goes on at @dest without a byte lost; its last host ends."""
        dest.wait_more_ticks(10)
        assert_one_story(self.at, dest)
        self.at.kill()
        self.at, self.moving = dest, False
        # What comes next is a story of its own.
        return dest

    def stays(self):
        self.at.wait_more_ticks(5)
        assert_one_story(self.at)
        self.moving = False


@pytest.fixture(scope="module")
def station(module_env):
    return Traveller(module_env)


@pytest.fixture
def traveller(station):
    station.board()
    return station


def there_and_on(env, hops, *options, disk_reads=False, **kw):
    """Boot one guest and move it @hops times, each time into a fresh QEMU
    under the name that is free; its whole story."""
    here = env.guest("a", **kw)
    here.wait_tick(20)
    consoles = [here]
    for hop in range(hops):
        there = env.guest("ba"[hop % 2], incoming=True, **kw)
        if disk_reads:
            seen = here.ticks()[-1].direct
            wait_until("disk reads", lambda: here.ticks()[-1].direct > seen)
        env.move(here, there, *options)
        there.wait_more_ticks(10)
        here.kill()
        # The name is used again and its console with it.
        here.console = keep(here.console, hop)
        consoles.append(there)
        here = there
    return assert_one_story(*consoles)


def keep(path, n):
    os.rename(path, f"{path}.{n}")
    return f"{path}.{n}"


# --- guests ---------------------------------------------------------------

def test_idle_guest(env):
    kw = dict(append="gw.tick=20")
    a = env.guest("a", **kw)
    b = env.guest("b", incoming=True, **kw)
    a.wait_tick(10)
    r = env.move(a, b)
    b.wait_more_ticks(10)
    assert_one_story(a, b)
    # Nearly nothing is sent twice.
    sent = r["ram"]["normal"] + r["ram"]["duplicate"]
    assert sent < 1.5 * r["populated-bytes"] / PAGE


def test_two_vcpus_and_a_writer_at_full_speed(env):
    kw = dict(append="gw.tick=20 gw.dirty=16:0 gw.zero=10", cpus=2)
    a = env.guest("a", **kw)
    b = env.guest("b", incoming=True, **kw)
    a.wait_tick(20)
    assert "cpus=2" in next(x for x in a.lines() if x.startswith("GODWIT"))
    env.move(a, b, "--downtime-limit", "5s")
    b.wait_more_ticks(20)
    ticks = assert_one_story(a, b)
    assert ticks[-1].dirty > ticks[0].dirty


def test_does_not_converge_then_does_with_a_larger_downtime_limit(env):
    """A writer faster than the limit on the bandwidth: exit 5, numbers, and
    the VM runs on; the same with a limit it fits into moves the VM into the
    same destination."""
    kw = dict(append="gw.tick=20 gw.dirty=32:0 gw.file=1")
    a = env.guest("a", **kw)
    b = env.guest("b", incoming=True, **kw)
    a.wait_tick(20)
    rx, at = env.receive(b)
    tx = env.migrate(a, at, "--max-bandwidth", "100M", "--downtime-limit",
                     "1ms", "--stall-passes", "2")
    assert tx.wait() == CONVERGE
    found = re.search(
        r"godwit: does not converge: ([\d.]+) ([KM]iB) left after pass (\d+), "
        r"the guest dirties ([\d.]+ .?i?B)/s and ([\d.]+) MiB/s can be sent, "
        r"so the downtime would be ([\d.]+) (\w+) and the limit is ([\d.]+) ms",
        tx.stderr())
    assert found, tx.stderr()
    left = float(found[1]) * {"KiB": 1, "MiB": 1024}[found[2]] * 1024
    last = tx.result()
    assert int(found[3]) == last["ram"]["dirty-sync-count"] >= 3
    assert left == pytest.approx(last["ram"]["remaining"], rel=0.1)
    assert 0.1e6 < left < 64 << 20
    assert 1 < float(found[5]) < 110, "more than --max-bandwidth"
    assert float(found[8]) == 1
    assert last["exit-code"] == CONVERGE and last["status"] == "failed"
    assert rx.wait() == CONVERGE
    assert "the source: does not converge" in rx.stderr()
    assert a.running() and b.status() == "inmigrate"
    a.wait_more_ticks(10)
    assert_one_story(a)

    env.move(a, b, "--max-bandwidth", "100M", "--downtime-limit", "10s")
    b.wait_more_ticks(10)
    assert_one_story(a, b)


def put(path, text):
    with open(path, "w") as f:
        f.write(text)


def whole_disk(path):
    """MAJOR:MINOR of the disk that @path is on, not of a partition."""
    st = os.stat(path)
    device = f"{os.major(st.st_dev)}:{os.minor(st.st_dev)}"
    node = os.path.realpath(f"/sys/dev/block/{device}")
    if os.path.exists(f"{node}/partition"):
        with open(f"{node}/../dev") as f:
            device = f.read().strip()
    return device


@contextlib.contextmanager
def slow_disk(env, disk, iops):
    """A function that makes the kernel hold back the reads of a QEMU, after
    it has pinned the memory they go to."""
    name = f"godwit-test-{os.getpid()}"
    ways = (("/sys/fs/cgroup/blkio", "blkio.throttle.read_iops_device", ""),
            ("/sys/fs/cgroup", "io.max", "riops="))
    for base, knob, prefix in ways:
        group, why = f"{base}/{name}", None
        try:
            os.mkdir(group)
            put(f"{group}/{knob}", f"{whole_disk(disk)} {prefix}{iops}")
        except OSError as why_not:
            why = why_not
            with contextlib.suppress(OSError):
                os.rmdir(group)
            continue
        break
    else:
        pytest.skip("no cgroup to slow a disk down with, so reads that are "
                    f"under way during a scan are hardly tested: {why}")
    try:
        yield lambda guest: put(f"{group}/cgroup.procs", str(guest.pid))
    finally:
        env.close()  # a group can go when its processes have
        os.rmdir(group)


def direct_disk(env, aio):
    disk = make_disk(os.path.join(env.dir, "disk"), 64)
    if not takes_direct_io(disk):
        pytest.skip(f"O_DIRECT does not work below {env.dir}: the hazard of "
                    "disks that write pinned guest pages is NOT tested; set "
                    "TMPDIR to a folder on a disk")
    return dict(
        append="gw.tick=20 gw.direct=1024:4",
        extra=["-drive", f"file={disk},format=raw,cache=none,aio={aio},"
               "if=none,id=d,readonly=on", "-device", "virtio-blk-pci,drive=d"])


@pytest.mark.parametrize("aio", ["native", "threads"])
def test_guest_reading_a_disk_with_direct_io_misses_no_page(env, aio):
    """The disk writes guest pages that were pinned before the scan, after the
    scan, unseen: only a drain in between makes them count."""
    ticks = there_and_on(env, 3 if aio == "native" else 1,
                         disk_reads=True, **direct_disk(env, aio))
    assert ticks[-1].direct > ticks[0].direct


def test_reads_under_way_during_every_scan_miss_no_page(env):
    """The same with a disk so slow that four reads of 1 MiB are under way
    whenever memory is scanned, and land when it was sent. (Without the drain
    this fails at every move.)"""
    kw = direct_disk(env, "native")
    with slow_disk(env, os.path.join(env.dir, "disk"), 50) as slow:
        a = env.guest("a", **kw)
        b = env.guest("b", incoming=True, **kw)
        a.wait_tick(20)
        for guest in a, b:
            slow(guest)
        seen = a.ticks()[-1].direct
        wait_until("disk reads", lambda: a.ticks()[-1].direct > seen + 1024)
        env.move(a, b)
        seen = a.ticks()[-1].direct
        wait_until("disk reads",
                   lambda: b.wait_tick().direct > seen + 4 * 1024)
        assert_one_story(a, b)


@pytest.mark.soak
@pytest.mark.parametrize("aio", ["native", "threads"])
def test_soak_direct_io_misses_no_page_in_20_moves(env, aio):
    there_and_on(env, 20, disk_reads=True, **direct_disk(env, aio))


def test_back_and_forth_6_times(env):
    """a -> b -> a ...: what was placed by godwit moves on just as well."""
    there_and_on(env, 6)


@pytest.mark.soak
def test_soak_back_and_forth_20_times_with_all_workloads(env):
    kw = direct_disk(env, "native")
    kw["append"] += " gw.dirty=16:2000 gw.zero=20 gw.touch=16"
    there_and_on(env, 20, cpus=2, disk_reads=True, **kw)


# --- transports and trackers ----------------------------------------------

RELAY = """
import os, socket, sys, threading, time
role, path = sys.argv[1:]
s = socket.socket(socket.AF_UNIX)
if role == "listen":
    s.bind(path)
    s.listen(1)
    s = s.accept()[0]
else:
    for i in range(600):
        try:
            s.connect(path)
            break
        except OSError:
            time.sleep(0.1)

def up():
    while data := os.read(0, 1 << 18):
        s.sendall(data)
    s.shutdown(socket.SHUT_WR)

threading.Thread(target=up, daemon=True).start()
while data := s.recv(1 << 18):
    while data:
        data = data[os.write(1, data):]
"""


def transport_exec(env):
    script = os.path.join(env.dir, "relay.py")
    with open(script, "w") as f:
        f.write(RELAY)
    run = f"exec:exec {sys.executable} {script}"
    return dict(uri=f"{run} listen {env.dir}/relay.sock",
                to=f"{run} connect {env.dir}/relay.sock")


def transport_fd(env):
    pair = socket.socketpair()
    return dict(uri=f"fd:{pair[0].fileno()}", to=f"fd:{pair[1].fileno()}",
                sockets=pair)


TRANSPORTS = {
    "tcp": lambda env: dict(uri=TCP),
    "tcp-ipv6": lambda env: dict(uri="tcp:[::1]:0"),
    "unix": lambda env: dict(uri=f"unix:{env.dir}/move.sock"),
    "exec": transport_exec,
    "fd": transport_fd,
}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_moves_over(traveller, transport):
    if transport == "tcp-ipv6":
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError as e:
            pytest.skip(f"no IPv6 here, so it is NOT tested: {e}")
    b = traveller.fresh()
    traveller.env.move(traveller.at, b,
                       **TRANSPORTS[transport](traveller.env))
    assert not os.path.exists(f"{traveller.env.dir}/move.sock")
    traveller.arrived(b)


@pytest.mark.parametrize("tracker", ["pagemap-scan", "uffd-wp"])
def test_moves_with_tracker(traveller, tracker):
    if tracker == "uffd-wp":
        traveller.into_small_pages()
    b = traveller.fresh()
    r = traveller.env.move(traveller.at, b, "--tracker", tracker)
    assert r["tracker"] == tracker
    assert r["ram"]["dirty-sync-count"] >= 2, "the writer dirtied nothing"
    traveller.arrived(b)


# --- QEMUs and their options ----------------------------------------------

@pytest.mark.parametrize("qemu", ["7.2", "11.1"], indirect=True)
def test_moves_between_two_qemus_of_version(env, qemu):
    there_and_on(env, 1, version=qemu)


@pytest.mark.parametrize("old, new, machine", [
    ("7.2", "10.0", "pc-i440fx-7.2"), ("10.0", "11.1", "pc-i440fx-10.0")])
def test_moves_to_a_newer_qemu_and_back(env, old, new, machine):
    for version in old, new:
        if not qemu_path(version):
            pytest.skip(f"QEMU {version} could not be unpacked on this machine"
                        f" (scripts/get-qemu {version} says why)")
    kw = dict(machine=machine)
    a = env.guest("a", version=old, **kw)
    b = env.guest("b", version=new, incoming=True, **kw)
    a.wait_tick(20)
    env.move(a, b)
    b.wait_more_ticks(10)
    c = env.guest("c", version=old, incoming=True, **kw)
    env.move(b, c)
    c.wait_more_ticks(10)
    assert_one_story(a, b, c)


RICH = ["-vga", "std", "-netdev", "user,id=n", "-device",
        "virtio-net-pci,netdev=n", "-device",
        "virtio-balloon-pci,free-page-reporting=on", "-device",
        "virtio-rng-pci", "-device", "virtio-serial-pci"]


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_moves_a_machine_with_vga_net_balloon_rng_serial(env, machine):
    there_and_on(env, 2, machine=machine, extra=RICH)


def own_backend(env):
    """What users write themselves; the block keeps its usual name."""
    folder = tempfile.mkdtemp(dir="/dev/shm")
    return dict(machine="pc,memory-backend=pc.ram", extra=[
        "-object", "memory-backend-file,id=pc.ram,size=256M,share=on,"
        f"mem-path={folder}/ram"]), folder


@pytest.mark.parametrize("how", ["daemonize", "sandbox", "agent-plugin",
                                 "own-backend"])
def test_moves_into_and_out_of_a_qemu_started_with(traveller, how):
    folder = None
    kw = {"daemonize": dict(extra=["-daemonize"], daemonize=True),
          "sandbox": dict(extra=["-sandbox", "on"]),
          "agent-plugin": dict(run_options=["--agent", "plugin"]),
          "own-backend": {}}[how]
    if how == "own-backend":
        kw, folder = own_backend(traveller.env)
    try:
        b = traveller.fresh(**kw)
        traveller.env.move(traveller.at, b)
        traveller.arrived(b)
        c = traveller.fresh()
        traveller.env.move(b, c)
        traveller.arrived(c)
    finally:
        if folder:
            shutil.rmtree(folder)


@pytest.mark.parametrize("how", ["daemonize", "agent-plugin"])
def test_moves_a_guest_that_booted_in_a_qemu_started_with(env, how):
    """The agent was there before the guest's first page, and in another
    process when QEMU forks."""
    kw = {"daemonize": dict(extra=["-daemonize"], daemonize=True),
          "agent-plugin": dict(run_options=["--agent", "plugin"])}[how]
    there_and_on(env, 1, **kw)


def test_moves_two_numa_nodes_with_a_backend_each(env):
    kw = dict(append="gw.tick=20 gw.dirty=32:2000 gw.touch=64", extra=[
        "-object", "memory-backend-ram,id=m0,size=128M",
        "-object", "memory-backend-memfd,id=m1,size=128M,share=on",
        "-numa", "node,memdev=m0", "-numa", "node,memdev=m1"])
    there_and_on(env, 2, **kw)
    blocks = [b["id"] for b in env.list()["a"]["blocks"]]
    assert blocks == ["m0", "m1"]


def test_moves_hugepages(env):
    with open("/proc/meminfo") as f:
        found = re.search(r"HugePages_Free: *(\d+)", f.read())
    if not found or int(found[1]) < 2 * 128:
        pytest.skip("fewer than 256 free huge pages of 2 MiB, so RAM in huge "
                    "pages is NOT tested: sysctl vm.nr_hugepages=256")
    there_and_on(env, 1, run_options=["--hugepages"])


def huge_kib(vm):
    """Of QEMU's RAM, in huge pages of shared memory."""
    with open(f"/proc/{vm.pid}/smaps_rollup") as f:
        return int(re.search(r"ShmemPmdMapped: *(\d+) kB", f.read())[1])


@pytest.mark.parametrize("options", [["--transparent-hugepages"], []],
                         ids=["asked-for", "by-itself"])
def test_moves_transparent_hugepages(env, options):
    """Tracked by small pages, and huge again where it arrives."""
    if why_small_pages():
        pytest.skip(why_small_pages())
    kw = dict(append="gw.tick=20 gw.dirty=32:2000 gw.touch=64",
              run_options=options)
    a = env.guest("a", **kw)
    a.wait_tick(20)
    assert huge_kib(a) > 32 << 10
    b = env.guest("b", incoming=True, **kw)
    result = env.move(a, b)
    assert result["tracker"] == "pagemap-scan"
    b.wait_more_ticks(10)
    assert huge_kib(b) > 32 << 10
    assert_one_story(a, b)


def test_moves_between_huge_and_small_pages(env):
    kw = dict(append="gw.tick=20 gw.dirty=32:2000 gw.touch=64")
    here = env.guest("a", **kw, run_options=SMALL_PAGES)
    here.wait_tick(20)
    assert huge_kib(here) == 0
    consoles = [here]
    for i, options in enumerate([[], SMALL_PAGES]):
        there = env.guest("bc"[i], incoming=True, **kw, run_options=options)
        env.move(here, there)
        there.wait_more_ticks(10)
        consoles.append(there)
        here = there
    assert huge_kib(here) == 0
    assert_one_story(*consoles)


def test_a_paused_vm_moves_and_stays_paused(traveller):
    a, b = traveller.at, traveller.fresh()
    a.ask("stop")
    before = a.ticks()[-1].n
    rx, at = traveller.env.receive(b)
    tx = traveller.env.migrate(a, at, "--verify")
    assert tx.wait() == OK, tx.stderr()
    assert rx.wait() == OK, rx.stderr()
    assert b.status() == "paused" and a.status() == "postmigrate"
    assert not b.ticks() and a.ticks()[-1].n == before
    b.ask("cont")
    traveller.arrived(b)


# --- what a user asks for and sees ----------------------------------------

def test_max_bandwidth_is_respected(traveller):
    """What was sent while the VM ran cannot have been sent in less time, and
    ten times the limit is at least four times as fast."""
    seconds = {}
    for mib in (20, 200):
        b = traveller.fresh()
        r = traveller.env.move(traveller.at, b, "--max-bandwidth", f"{mib}M",
                               "--downtime-limit", "300ms")
        # The last pass, at most what fits into the downtime limit, the
        # hashes and the device state are sent without a limit.
        free = 0.3 * (mib << 20) + r["device-state-bytes"] + \
            r["ram"]["total"] / PAGE * 9
        seconds[mib] = (r["total-time"] - r["setup-time"]) / 1000
        assert seconds[mib] > \
            0.9 * (r["ram"]["transferred"] - free) / (mib << 20)
        traveller.arrived(b)
        traveller.board()
    assert seconds[20] > 4 * seconds[200], seconds
    traveller.stays()


def test_check_leaves_the_receiver_listening(traveller):
    a, b = traveller.at, traveller.fresh()
    rx, at = traveller.env.receive(b)
    for _ in range(2):
        check = traveller.env.godwit("check", a.name, at)
        assert check.wait() == OK, check.stdout() + check.stderr()
        assert re.search(rf"^ok +peer .*'{b.name}' would take it$",
                         check.stdout(), re.M), check.stdout()
    assert rx.proc.poll() is None and b.status() == "inmigrate"
    assert a.running()
    tx = traveller.env.migrate(a, at, "--verify")
    assert tx.wait() == OK, tx.stderr()
    assert rx.wait() == OK, rx.stderr()
    traveller.arrived(b)


def test_a_vm_that_moved_away_is_not_moved_again(traveller):
    a, b, c = traveller.at, traveller.fresh(), traveller.fresh()
    traveller.env.move(a, b)
    rx, at = traveller.env.receive(c)
    tx = traveller.env.migrate(a, at)
    assert tx.wait() == USAGE
    assert f"godwit: '{a.name}' was migrated away already and stands still " \
        "here" in tx.stderr()
    assert f"'godwit resume {a.name}'" in tx.stderr()
    assert a.status() == "postmigrate" and c.status() == "inmigrate"
    # The receiver never heard of it, and takes the next one.
    assert rx.proc.poll() is None
    tx = traveller.env.migrate(b, at, "--verify")
    assert tx.wait() == OK and rx.wait() == OK, tx.stderr() + rx.stderr()
    c.wait_more_ticks(10)
    assert_one_story(a, b, c)
    a.kill()
    traveller.at = b
    traveller.arrived(c)


def test_json_has_the_names_of_query_migrate_and_sane_numbers(traveller):
    a, b = traveller.at, traveller.fresh()
    rx, at = traveller.env.receive(b)
    tx = traveller.env.migrate(a, at, "--verify")
    assert tx.wait() == OK and rx.wait() == OK, tx.stderr() + rx.stderr()
    theirs = a.ask("query-migrate")
    last = tx.result()
    ram = last["ram"]
    assert last["event"] == "completed" and last["status"] == "completed"
    # Names that QEMU has are QEMU's; ours are these and no others.
    assert set(ram) - set(theirs["ram"]) <= {"skipped"}
    assert set(last) - set(theirs) == {
        "event", "device-state-bytes", "populated-bytes", "tracker",
        "verified-pages", "downtime-us", "unpopulated", "given-back",
        "saved-bytes", "saved-time"}
    assert set(last) >= {"status", "total-time", "setup-time", "downtime",
                         "ram"}
    assert set(ram) >= {"transferred", "remaining", "total", "duplicate",
                        "normal", "normal-bytes", "dirty-pages-rate", "mbps",
                        "dirty-sync-count", "page-size"}
    # Every page is one of three in the first pass.
    assert ram["total"] == 256 << 20
    assert ram["page-size"] == PAGE
    assert ram["normal-bytes"] == ram["normal"] * PAGE
    assert last["unpopulated"] * PAGE + last["populated-bytes"] == ram["total"]
    sent = ram["normal"] + ram["duplicate"]
    assert (sent + ram["skipped"]) * PAGE >= last["populated-bytes"]
    assert ram["remaining"] == 0
    # A page costs 9 to 16 bytes besides itself, a hash 8 and its share.
    least = ram["normal-bytes"] + 9 * sent + last["device-state-bytes"]
    assert least <= ram["transferred"] <= \
        least + 8 * sent + 12 * ram["total"] / PAGE + 100000
    assert 0 < last["downtime"] <= last["total-time"]
    assert last["downtime-us"] // 1000 <= last["downtime"] + 1
    got = rx.result()
    assert got["ram"]["normal"] == ram["normal"]
    assert got["ram"]["duplicate"] == ram["duplicate"]
    assert got["ram"]["transferred"] == ram["transferred"]
    assert got["device-state-bytes"] == last["device-state-bytes"]
    assert got["verified-pages"] == last["verified-pages"]
    # On the way: only forward, and QEMU's states in QEMU's order.
    events = tx.events()
    order = ["setup", "active", "pre-switchover", "device", "completed"]
    states = [order.index(e["status"]) for e in events]
    assert states == sorted(states) and set(states) == set(range(5))
    moved = [e["ram"]["transferred"] for e in events]
    assert moved == sorted(moved)
    traveller.arrived(b)
