# SPDX-License-Identifier: BSD-3-Clause
"""Free page hints of a real Linux guest: its agent says what is free while the
VM moves, and the guest goes on using memory as it likes."""
import os

import pytest

from harness import (MIB, assert_continues, assert_one_story, each_version,
                     wait_until)

PORT = ["--free-page-agent"]
HINTS = ["--free-page-hint", "agent"]


def pair(env, append, **kw):
    kw.setdefault("run_options", PORT)
    kw.setdefault("memory", 512)
    a = env.guest("a", append=append, **kw)
    b = env.guest("b", append=append, incoming=True, **kw)
    a.wait_tick(20)
    return a, b


def move(env, a, b, *options):
    result = env.move(a, b, *options)
    b.wait_more_ticks(5)
    return result


# Over a fast connection nothing is left when a busy guest has answered.
SLOW = ["--max-bandwidth", "100M"]


@pytest.mark.parametrize("qemu", each_version(), indirect=True)
@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_what_the_guest_freed_is_not_sent(env, qemu, machine):
    """60 % of the memory written and given back: populated, and free."""
    if machine == "q35" and qemu != "10.0":
        pytest.skip("one machine type is enough for this version")
    append = "gw.tick=20 gw.dirty=16:500 gw.free=307 agent=on"
    a, b = pair(env, append, version=qemu, machine=machine)
    with_hints = move(env, a, b, *HINTS, *SLOW)
    assert_continues(a, b)
    # There and back again: the agent has the port open there, too.
    c = env.guest("c", append=append, incoming=True, version=qemu,
                  machine=machine, memory=512, run_options=PORT)
    without = move(env, b, c)
    assert_continues(b, c)

    hints = with_hints["free-page-hint"]
    assert "free-page-hint" not in without
    assert hints["accepted"] * 4096 > 200 * MIB, hints
    assert hints["stale"] == 0 and hints["refused"] == 0, hints
    assert with_hints["ram"]["transferred"] < 200 * MIB
    # What was hinted arrived as zeros, and costs nine bytes a page now: the
    # destination is compared to the first source.
    assert with_hints["populated-bytes"] - hints["accepted"] * 4096 < \
        200 * MIB


def test_without_hints_it_is_all_sent(env):
    """The other half of the comparison: the same guest."""
    append = "gw.tick=20 gw.dirty=16:500 gw.free=307 agent=on"
    a, b = pair(env, append)
    result = move(env, a, b)
    assert_continues(a, b)
    assert result["ram"]["transferred"] > 300 * MIB


REPORTING = ["-device", "virtio-balloon,free-page-reporting=on"]


def hop(env, hops, memory, append):
    """That many moves, one after the other, all with every source of hints:
    the guest's agent, what its balloon gives back, and holes. What the agent
    said to be free in each of them, and how many pages the balloon gave back
    or nobody ever used."""
    def guest(i, **kw):
        return env.guest(f"g{i}", append=append, memory=memory, cpus=2,
                         run_options=PORT, extra=REPORTING, **kw)
    guests, accepted, holes = [guest(0)], [], []
    guests[0].wait_tick(20)
    for i in range(1, hops + 1):
        guests.append(guest(i, incoming=True))
        result = move(env, guests[-2], guests[-1], *HINTS, *SLOW,
                      "--downtime-limit", "5s")
        accepted.append(result["free-page-hint"]["accepted"])
        holes.append(result["unpopulated"] + result["given-back"])
        guests[-2].kill()
    guests[-1].wait_more_ticks(50)
    assert_one_story(*guests)
    print(f"{hops} moves, pages hinted {accepted}, of holes {holes}")
    return accepted, holes


CHURN = "gw.tick=20 gw.dirty=16:2000 gw.free=200 gw.churn=128:20000 agent=on"


def test_a_guest_that_allocates_and_frees_all_the_time(env):
    """Pages hinted free are used again while and after they are hinted, in
    one move after the other. The guest checks every page it wrote."""
    accepted, _ = hop(env, 4, 512, CHURN)
    # A hop may be too quick for its answer, not each of them.
    assert sum(n > 0 for n in accepted) >= 2, accepted


@pytest.mark.soak
def test_the_same_for_many_hops(env):
    hops = int(os.environ.get("GODWIT_HOPS", "50"))
    accepted, holes = hop(env, hops, 384, CHURN)
    assert sum(n > 0 for n in accepted) >= hops // 2, accepted
    assert sum(n > 0 for n in holes) >= hops // 2, holes


@pytest.mark.parametrize("agent", ["none", "mute", "garbage"])
def test_an_agent_that_does_not_answer_harms_nothing(env, agent):
    append = f"gw.tick=20 gw.dirty=16:500 gw.free=100 agent={agent}"
    a, b = pair(env, append, memory=256)
    tx_result = move(env, a, b, *HINTS)
    assert_continues(a, b)
    hints = tx_result.get("free-page-hint", {"accepted": 0})
    assert hints["accepted"] == 0, hints
    assert tx_result["ram"]["transferred"] > 90 * MIB
    log = env.read("migrate2.err")
    if agent == "none":
        assert "nobody in the guest has the port open" in log
    if agent == "garbage":
        assert "were no frame" in log


def test_a_vm_without_the_port_is_moved_all_the_same(env):
    a, b = pair(env, "gw.tick=20 gw.dirty=16:500 agent=none", memory=256,
                run_options=())
    result = move(env, a, b, *HINTS)
    assert "free-page-hint" not in result
    assert "--free-page-agent" in env.read("migrate2.err")
    assert_continues(a, b)


def test_a_kernel_that_poisons_free_pages_gives_no_hints(env):
    """What is in its free pages is looked at when they are used again."""
    a, b = pair(env, "gw.tick=20 gw.dirty=16:500 gw.free=100 agent=on "
                "page_poison=1", memory=256)
    result = move(env, a, b, *HINTS)
    assert_continues(a, b)
    assert result["free-page-hint"]["accepted"] == 0
    assert "page_poison" in env.read("migrate2.err")


def test_to_a_plain_qemu(env):
    append = "gw.tick=20 gw.dirty=16:500 gw.free=200 agent=on"
    a = env.guest("a", append=append, memory=512, run_options=PORT)
    b = env.plain("b", append=append, memory=512, incoming="defer", extra=[
        "-chardev", "null,id=godwit-free-pages",
        "-device", "virtio-serial,id=godwit-serial",
        "-device", "virtserialport,id=godwit-free-pages-port,"
        "bus=godwit-serial.0,chardev=godwit-free-pages,"
        "name=org.godwit.free-pages.0"])
    a.wait_tick(20)
    at = b.listen(**{"return_path": True})
    tx = env.migrate(a, at, "--to-qemu", *HINTS)
    assert tx.wait() == 0, tx.stderr()
    hints = tx.result()["free-page-hint"]
    assert hints["accepted"] * 4096 > 100 * MIB, hints
    wait_until("VM in b", lambda: b.status() in ("paused", "running"))
    if b.status() == "paused":
        b.ask("cont")
    assert_continues(a, b)
