# SPDX-License-Identifier: BSD-3-Clause
"""A VM's pages travel on several connections, compressed or not: into a plain
QEMU with multifd. The guest goes on with counter and checksum."""
import socket

import pytest

from harness import (CANCELLED, FAILED, OK, REFUSED, USAGE, assert_one_story,
                     qemu_path, wait_until)

BUSY = "gw.tick=20 gw.dirty=16:2000 gw.zero=10"
RICH = ("-device", "VGA", "-netdev", "user,id=n", "-device",
        "virtio-net-pci,netdev=n", "-device", "virtio-balloon-pci",
        "-object", "rng-builtin,id=r", "-device", "virtio-rng-pci,rng=r")


def need(*names):
    for v in names:
        if not qemu_path(v):
            pytest.skip(f"QEMU {v} could not be unpacked on this machine")


def listen(vm, channels, method="none"):
    """A plain QEMU that waits for a multifd migration; where."""
    vm.wait_up()
    vm.set("multifd", multifd_channels=channels, multifd_compression=method)
    return vm.listen()


def into_qemu(env, source, dest, machine, channels, method, *options, **kw):
    """From @source's version to @dest's. The two guests and the result."""
    need(source, dest)
    kw = dict(append=BUSY, machine=machine, extra=RICH, **kw)
    a = env.guest("a", version=source, **kw)
    b = env.plain("b", incoming="defer", version=dest, **kw)
    a.wait_tick(20)
    if method != "none":
        options += ("--compress", method)
    g = env.migrate(a, listen(b, channels, method.split(":")[0]), "--to-qemu",
                    "--channels", str(channels), *options)
    assert g.wait() == OK, g.stderr() + env.read("b.qemu")
    assert g.result()["status"] == "completed"
    assert a.status() == "postmigrate"
    b.wait_more_ticks(10)
    assert_one_story(a, b)
    return g.result()


# Where it waits for its channels goes by the machine type: up to 8.0 at every
# section, up to 8.2 without zero pages in packets.
ROWS = [(machine, channels, method)
        for machine, channels in (
            ("pc", 1), ("pc", 2), ("pc", 4), ("pc-i440fx-7.2", 2),
            ("pc-i440fx-8.0", 2), ("pc-i440fx-8.2", 4), ("pc-i440fx-9.0", 2))
        for method in ("none", "zlib", "zstd")]


def usual(machine, channels, method):
    """All machine types, and all methods with the oldest and the newest."""
    return method == "none" or \
        channels == 2 and machine in ("pc", "pc-i440fx-7.2")


@pytest.mark.parametrize("machine,channels,method", [
    pytest.param(*row, marks=() if usual(*row) else pytest.mark.soak)
    for row in ROWS])
def test_into_a_plain_qemu(env, machine, channels, method):
    into_qemu(env, "10.0", "10.0", machine, channels, method)


@pytest.mark.parametrize("pair,machine,channels,method", [
    ("7.2-7.2", "pc-i440fx-7.2", 2, "none"),
    ("10.0-7.2", "pc-i440fx-7.2", 3, "zstd:3"),
    ("10.0-7.2", "pc-i440fx-7.2", 2, "zlib"),
    ("7.2-10.0", "pc-i440fx-7.2", 2, "zstd"),
    ("11.1-11.1", "pc", 2, "zstd"),
    ("10.0-11.1", "pc-i440fx-10.0", 4, "none"),
    ("11.1-10.0", "pc-i440fx-8.0", 2, "zlib:9"),
    ("10.0-11.1", "pc-i440fx-7.2", 2, "none")])
def test_into_another_qemu(env, pair, machine, channels, method):
    into_qemu(env, *pair.split("-"), machine, channels, method)


def test_a_uuid_is_said_on_every_channel(env):
    need("10.0")
    kw = dict(append=BUSY, machine="pc",
              extra=("-uuid", "12345678-9abc-def0-1122-334455667788"))
    a = env.guest("a", **kw)
    b = env.plain("b", incoming="defer", **kw)
    a.wait_tick(10)
    g = env.migrate(a, listen(b, 2), "--to-qemu", "--channels", "2")
    assert g.wait() == OK, g.stderr() + env.read("b.qemu")
    b.wait_more_ticks(10)
    assert_one_story(a, b)


@pytest.mark.parametrize("options,why", [
    (("--channels", "2", "--xbzrle"), "not both"),
    (("--compress", "auto"), "multifd-compression"),
    (("--compress", "zlib:12"), "1 to 9"),
    (("--channels", "2", "--native"), "exclude each other")])
def test_what_qemu_cannot_is_refused_before_it_is_asked(env, options, why):
    a = env.guest("a", append=BUSY)
    a.wait_tick(5)
    with socket.create_server(("127.0.0.1", 0)) as s:
        g = env.migrate(a, f"tcp:127.0.0.1:{s.getsockname()[1]}", "--to-qemu",
                        *options)
        assert g.wait() == USAGE, g.stderr()
        assert why in g.stderr()
        s.settimeout(0.2)
        with pytest.raises(TimeoutError):
            s.accept()
    a.wait_more_ticks(5)
    assert_one_story(a)


def test_one_connection_is_not_enough_for_channels(env):
    a = env.guest("a", append=BUSY)
    a.wait_tick(5)
    g = env.migrate(a, "exec:cat", "--channels", "2")
    assert g.wait() == USAGE, g.stderr()
    assert "use tcp: or unix:" in g.stderr()
    assert_one_story(a)
