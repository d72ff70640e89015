# SPDX-License-Identifier: BSD-3-Clause
"""A guest that writes faster than can be sent: given up with advice that
works, slowed down (--auto-converge), or switched over at a longer downtime
(--max-downtime). Whatever ends the move, nothing slows the guest down
afterwards: no quota, no cgroup, full speed."""
import os
import re
import signal
import time

import pytest

from harness import CANCELLED, CONVERGE, OK, USAGE, assert_one_story, \
    guardians, said, wait_until

# 32 MiB rewritten as fast as it goes, 1.5 GB/s on an idle host, against a link
# that is far slower than that even where the host gives the guest a hundredth.
WRITER = "gw.tick=20 gw.dirty=32:0 gw.file=1"
SLOW_LINK = ("--max-bandwidth", "16M", "--downtime-limit", "60ms",
             "--stall-passes", "3")
# One on which it is slow enough with 99 % taken; and it is slowed down soon.
LINK = ("--max-bandwidth", "64M", "--downtime-limit", "60ms")
THROTTLE = ("--auto-converge", "--throttle-trigger-threshold", "1",
            "--cpu-throttle-initial", "50", "--cpu-throttle-increment", "20")


def cpu_cgroups(pid):
    """The lines about cpu of each thread's /proc/PID/task/TID/cgroup."""
    out = {}
    for tid in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{tid}/cgroup") as f:
            out[int(tid)] = [x.strip() for x in f
                             if re.match(r"\d+:(.*,)?cpu(,.*)?:|0::", x)]
    return out


def left_over(pid):
    """Threads of @pid in cgroups of ours, and folders with such a name."""
    threads = [t for t, lines in cpu_cgroups(pid).items()
               if any(f"/godwit-{pid}-" in x for x in lines)]
    folders = []
    for top, names, _ in os.walk("/sys/fs/cgroup"):
        folders += [os.path.join(top, n) for n in names
                    if n.startswith(f"godwit-{pid}-")]
    return threads + folders


def vcpus(guest):
    return [c["thread-id"] for c in guest.ask("query-cpus-fast")]


def share(guest, seconds=1.0):
    """What part of the time its busiest vCPU runs."""
    def ran(tid):
        with open(f"/proc/{guest.pid}/task/{tid}/schedstat") as f:
            return int(f.read().split()[0])
    before = {t: ran(t) for t in vcpus(guest)}
    start = time.monotonic_ns()
    time.sleep(seconds)
    return max(ran(t) - n for t, n in before.items()) / \
        (time.monotonic_ns() - start)


# A quota of 10 % holds however the host is loaded; ticks make it a little more.
SLOW = 0.25


def assert_full_speed(guest):
    """Nothing of it is left: each thread is in a cgroup where it was before,
    without a quota of ours. (How fast it is says more of the host.)"""
    wait_until(f"end of the throttle of {guest.name}",
               lambda: not left_over(guest.pid))
    main = cpu_cgroups(guest.pid)[guest.pid]
    assert all(x == main for x in cpu_cgroups(guest.pid).values())
    guest.wait_more_ticks(2)


def cpu_controller():
    """Where cgroups with the cpu controller are mounted, or None."""
    with open("/proc/self/mountinfo") as f:
        for line in f:
            fields = line.split()
            kind, _, options = fields[fields.index("-") + 1:][:3]
            where = fields[4]
            if kind == "cgroup" and "cpu" in options.split(","):
                return where
            if kind == "cgroup2":
                with open(where + "/cgroup.controllers") as c:
                    if "cpu" in c.read().split():
                        return where
    return None


@pytest.fixture
def quotas():
    """Skips where we may not make a cgroup with a cpu quota."""
    where = cpu_controller()
    if not where:
        pytest.skip("no cgroups with a cpu controller are mounted here")
    probe = os.path.join(where, f"godwit-test-{os.getpid()}")
    try:
        os.mkdir(probe)
        os.rmdir(probe)
    except OSError as e:
        pytest.skip(f"no cgroup can be made here: {e}")


def pair(env, **kw):
    kw.setdefault("append", WRITER)
    a = env.guest("a", **kw)
    b = env.guest("b", incoming=True, **kw)
    a.wait_tick(20)
    return a, b


def throttled_move(env, a, at, *options):
    """A migrate that has the vCPUs slowed down now, by 90 percent, and stays
    so: what it writes then is still more than is sent."""
    tx = env.migrate(a, at, *SLOW_LINK, *THROTTLE,
                     "--cpu-throttle-initial", "90",
                     "--max-cpu-throttle", "90", "--downtime-limit", "0",
                     "--stall-passes", "0", *options)
    wait_until("throttle", lambda: tx.proc.poll() is not None or any(
        e.get("cpu-throttle-percentage") for e in tx.events()))
    assert tx.proc.poll() is None, tx.stderr()
    assert left_over(a.pid)
    assert share(a, 2) < SLOW, "it is not slow at all"
    return tx


def test_given_up_then_helped_as_the_message_says(env, quotas):
    a, b = pair(env)
    rx, at = env.receive(b)
    tx = env.migrate(a, at, *SLOW_LINK)
    assert tx.wait() == CONVERGE, tx.stderr()
    assert "What would help: " in said(tx) and "(--auto-converge)" in said(tx)
    assert "raise --max-bandwidth, which is 16.0 MiB" in said(tx)
    longer = re.search(r"\(--max-downtime (\w+)\)", said(tx))[1]
    assert rx.wait() == CONVERGE
    assert a.running() and b.status() == "inmigrate"
    a.wait_more_ticks(10)
    assert_one_story(a)

    # Twice that much: the host may give the guest more time than before.
    twice = f"{2 * int(re.match(r'[0-9]+', longer)[0])}" + \
        longer.lstrip("0123456789")
    r = env.move(a, b, *SLOW_LINK, "--max-downtime", twice)
    assert r["ram"]["dirty-sync-count"] > 4, "when passes no longer helped"
    b.wait_more_ticks(10)
    assert_one_story(a, b)
    assert not left_over(a.pid)
    assert_full_speed(b)


def test_slowed_down_it_moves_and_is_at_full_speed_there(env, quotas):
    a, b = pair(env, cpus=2)
    there = cpu_cgroups(a.pid)
    rx, at = env.receive(b)
    tx = env.migrate(a, at, *LINK, *THROTTLE, "--verify")
    wait_until("throttle", lambda: tx.proc.poll() is not None or
               left_over(a.pid))
    slowed = [t for t, lines in cpu_cgroups(a.pid).items()
              if any("/godwit-" in x for x in lines)]
    assert tx.wait() == OK, tx.stderr()
    assert rx.wait() == OK, rx.stderr()
    assert set(slowed) <= set(vcpus(a)), "the vCPUs and nobody else"
    percent = {e["cpu-throttle-percentage"] for e in tx.events()
               if "cpu-throttle-percentage" in e}
    assert percent and min(percent) == 50 and max(percent) <= 99
    assert "cpu-throttle-percentage" not in tx.result()
    assert tx.result()["verified-pages"]
    b.wait_more_ticks(10)
    assert_one_story(a, b)
    assert not left_over(a.pid)
    now = cpu_cgroups(a.pid)
    assert all(now[t] == there[t] for t in now if t in there)
    assert_full_speed(b)


def test_cancelled_in_mid_throttle(env, quotas):
    a, b = pair(env)
    rx, at = env.receive(b)
    tx = throttled_move(env, a, at)
    tx.kill(signal.SIGINT)
    assert tx.wait() == CANCELLED, tx.stderr()
    assert rx.wait() == CANCELLED
    assert not left_over(a.pid), "gone when godwit says that it ended"
    assert_full_speed(a)
    assert_one_story(a)


def test_destination_lost_in_mid_throttle(env, quotas):
    a, b = pair(env)
    rx, at = env.receive(b)
    tx = throttled_move(env, a, at)
    rx.kill()
    assert tx.wait() != OK
    assert not left_over(a.pid)
    assert_full_speed(a)


def test_godwit_is_killed_in_mid_throttle(env, quotas):
    """Its guardian takes the quotas back; the VM can be moved then."""
    a, b = pair(env)
    rx, at = env.receive(b)
    tx = throttled_move(env, a, at)
    tx.kill()
    assert tx.wait() == -signal.SIGKILL
    assert_full_speed(a)
    assert a.running()
    rx.wait()
    env.move(a, b, "--downtime-limit", "10s")
    b.wait_more_ticks(5)
    assert_one_story(a, b)


def test_godwit_and_guardian_are_killed_in_mid_throttle(env, quotas):
    """Nobody is left to do anything: the next godwit does."""
    a, b = pair(env)
    rx, at = env.receive(b)
    tx = throttled_move(env, a, at)
    tx.kill(signal.SIGSTOP)
    guard, = guardians(env)
    os.kill(guard, signal.SIGKILL)
    tx.kill()
    tx.wait()
    rx.wait()
    time.sleep(1)
    assert left_over(a.pid), "nobody could"
    check = env.godwit("check", "a")
    assert check.wait() == OK, check.stderr()
    assert "had left the vCPUs of 'a' slowed down" in check.stderr()
    assert_full_speed(a)
    assert_one_story(a)


def test_qemu_is_killed_in_mid_throttle(env, quotas):
    """No thread is left, and no cgroup either."""
    a, b = pair(env)
    rx, at = env.receive(b)
    tx = throttled_move(env, a, at)
    a.kill()
    assert tx.wait() != OK
    folders = [os.path.join(top, n)
               for top, names, _ in os.walk("/sys/fs/cgroup") for n in names
               if n.startswith(f"godwit-{a.pid}-")]
    assert not folders
    rx.wait()


def test_save_while_it_runs_can_slow_it_down(env, quotas):
    a, _ = pair(env)
    out = os.path.join(env.dir, "saved")
    tx = env.godwit("save", "a", out, "--live", "--json", *LINK,
                    *THROTTLE)
    assert tx.wait() == OK, tx.stderr()
    assert any(e.get("cpu-throttle-percentage") for e in tx.events())
    assert os.path.exists(out)
    assert_full_speed(a)
    assert_one_story(a)


def test_native_is_qemus_own_business(env):
    a = env.guest("a", append="gw.tick=20")
    a.wait_tick(1)
    for option, name in ((("--auto-converge",), "auto-converge"),
                         (("--max-downtime", "1s"), "max-downtime")):
        tx = env.migrate(a, "tcp:127.0.0.1:9", "--native", *option)
        assert tx.wait() == USAGE
        assert f"native and {name} exclude each other" in said(tx)
