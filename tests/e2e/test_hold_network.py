# SPDX-License-Identifier: BSD-3-Clause
"""A client asks a server in a protected guest all the time, over QEMU's socket
netdev, and the primary is lost. With --hold-network it saw nothing of a state
that was lost; without, it does, and that is seen here too.

The server (gw.serve in tests/guest/guest.c) counts its answers in memory and
says the number in each. So a number that is given out twice belonged to a
state that was lost after somebody saw it.
"""
import contextlib
import os
import random
import select
import socket
import statistics
import struct
import threading
import time

import pytest

from harness import wait_until
from test_protect import Protected, Watch, assert_goes_on, die

GUEST = "gw.tick=20 gw.dirty=16:2000 gw.serve=1"
FRAME = struct.Struct(">6s6sH8sQ")  # to, from, type, request, counter
TYPE = 0x88b5
MAC = b"\x02\0\0\0\0\1"
EVERY = 0.002  # seconds between requests


def udp():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("127.0.0.1", 0))
    return s


class Client(threading.Thread):
    """Asks whoever is at @self.to, at any time, and takes answers of all."""

    def __init__(self, seed):
        super().__init__(daemon=True)
        self.sock = udp()
        self.random = random.Random(seed)
        self.to = None
        self.asked = {}  # number -> when
        self.seen = []  # (port it came from, counter)
        self.took = []  # seconds until an answer
        self.again = 0  # answers to what was answered before
        self.quit = threading.Event()

    def netdev(self):
        """Options of another QEMU in this network, and its port."""
        with udp() as s:
            port = s.getsockname()[1]
        return port, ("-netdev", "socket,id=n0,udp=127.0.0.1:%d,"
                      "localaddr=127.0.0.1:%d" %
                      (self.sock.getsockname()[1], port),
                      "-device", "virtio-net-pci,netdev=n0,romfile=")

    def ask(self):
        number = self.random.randbytes(8)
        self.asked[number] = time.monotonic()
        with contextlib.suppress(OSError):  # nobody is there any more
            self.sock.sendto(FRAME.pack(b"\xff" * 6, MAC, TYPE, number, 0) +
                             bytes(30), ("127.0.0.1", self.to))

    def hear(self):
        with contextlib.suppress(ConnectionError):
            frame, (_, port) = self.sock.recvfrom(2000)
            if len(frame) < FRAME.size:
                return
            _, _, kind, number, counter = FRAME.unpack(frame[:FRAME.size])
            if kind != TYPE or not counter:
                return
            self.seen.append((port, counter))
            if number in self.asked:
                self.took.append(time.monotonic() - self.asked.pop(number))
            else:
                self.again += 1

    def run(self):
        due = time.monotonic()
        while not self.quit.is_set():
            left = due - time.monotonic()
            if left <= 0:
                self.ask()
                due = max(due + EVERY, time.monotonic())
            elif select.select([self.sock], [], [], left)[0]:
                self.hear()

    def answers(self, port):
        """Counters that came from there, in order."""
        return [c for p, c in list(self.seen) if p == port]

    def wait(self, port, n=50):
        have = len(self.answers(port))
        wait_until(f"{n} answers", lambda: len(self.answers(port)) >= have + n)

    def turn_to(self, port):
        """It is there from now on, as the network would have learned."""
        self.to = port

    def median_ms(self):
        took, self.took = self.took, []
        return 1000 * statistics.median(took)

    def close(self):
        self.quit.set()
        if self.is_alive():
            self.join()
        self.sock.close()


@pytest.fixture
def client():
    seed = int(os.environ.get("GODWIT_SEED", str(random.randrange(1 << 32))))
    print(f"seed {seed}")
    c = Client(seed)
    yield c
    c.close()


# --- what happens to the primary -------------------------------------------

def host(p, rng):
    die(p, rng)


def godwit(p, _):
    p.primary.kill()


def cut(p, _):
    p.network.cut()


def play(env, client, count, *options, lost=(host, godwit, cut), until=None):
    """@count times a primary is lost, the standby is the next one. How many
    answers each client saw of a state that is gone; ends early @until that."""
    rng = client.random
    port, extra = client.netdev()
    a = env.guest("n0", append=GUEST, memory=192, extra=extra)
    a.wait_tick(10)
    client.turn_to(port)
    client.start()
    client.wait(port)
    print(f"median without protection {client.median_ms():.2f} ms")
    twice = []
    for i in range(1, count + 1):
        to, extra = client.netdev()
        b = env.guest(f"n{i}", append=GUEST, memory=192, extra=extra,
                      incoming=True)
        p = Protected(env, a, b, *options, network=True)
        p.wait(5)
        client.took.clear()
        client.wait(port, 100)
        time.sleep(rng.random())
        p.sample()
        watch = Watch(a, b)
        how = rng.choice(lost)
        how(p, rng)
        client.median = client.median_ms()
        done = p.took_over()["colo"]["checkpoint"]
        client.turn_to(to)
        client.wait(to)
        watch.end()
        assert_goes_on(a, b, p.least(done))
        highest, first = max(client.answers(port)), client.answers(to)[0]
        twice.append(max(0, highest - first + 1))
        print(f"{how.__name__}: median {client.median:.2f} ms; answered up to "
              f"{highest}, goes on with {first}: {twice[-1]} seen twice; "
              f"{client.again} requests answered again")
        p.network.close()
        p.primary.kill()
        a.kill()
        if until and twice[-1]:
            break
        a, port = b, to
    return twice


def test_a_client_sees_nothing_that_is_lost(env, client):
    twice = play(env, client, 3, "--hold-network", "--interval", "50ms")
    assert twice == [0] * 3 and not client.again
    counters = [c for _, c in client.seen]
    assert len(counters) > 500 and len(set(counters)) == len(counters)
    assert counters == sorted(counters)


@pytest.mark.soak
@pytest.mark.parametrize("interval", ["20ms", "100ms", "500ms"])
def test_many_times(env, client, interval):
    n = int(os.environ.get("GODWIT_ROUNDS", "30"))
    twice = play(env, client, n, "--hold-network", "--interval", interval)
    assert not any(twice) and not client.again, (twice, client.again)


def test_without_holding_it_sees_what_is_lost(env, client):
    """So the other tests could see it."""
    twice = play(env, client, 10, "--interval", "1s", lost=(host,),
                 until=True)
    assert twice[-1] > 0
