#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Capture what a real QEMU writes when it migrates a machine without firmware,
so that little but QEMU's own framing is in the files. Run by hand when a new
QEMU release is to be covered; the files are committed.

usage: capture.py QEMU OUT             device stream: x-ignore-shared and a
                                       return path
       capture.py QEMU OUT multifd METHOD
                                       OUT.main, OUT.ch0, OUT.ch1: two
                                       multifd channels, compression none,
                                       zlib or zstd. RAM is pattern() below,
                                       which tests/unit/multifd_test.c knows.
"""
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time

RAM = 1 << 20
PAGE = 4096


def pattern():
    """Every 40th page has content, easy to compress but no page like another."""
    ram = bytearray(RAM)
    for page in range(7, RAM // PAGE, 40):
        for j in range(PAGE):
            ram[page * PAGE + j] = (page * 31 + (j >> 4) * 7 + (j & page)) & 255
    return ram


class Vm:
    def __init__(self, qemu, folder, ram, share):
        with open(folder + "/ram", "wb") as f:
            f.write(ram)
        qmp = folder + "/qmp"
        self.process = subprocess.Popen(
            [qemu, "-machine", "none,memory-backend=ram", "-object",
             f"memory-backend-file,id=ram,size={RAM},share={share},mem-path="
             f"{folder}/ram", "-m", "1M", "-nodefaults", "-display", "none",
             "-S", "-qmp", f"unix:{qmp},server=on,wait=off"])
        while not os.path.exists(qmp):
            time.sleep(0.05)
        s = socket.socket(socket.AF_UNIX)
        s.connect(qmp)
        self.qmp = s.makefile("rw")
        self.qmp.readline()
        self.cmd("qmp_capabilities")

    def cmd(self, name, **args):
        self.qmp.write(json.dumps({"execute": name, "arguments": args}) + "\n")
        self.qmp.flush()
        while True:
            r = json.loads(self.qmp.readline())
            if "error" in r:
                raise RuntimeError(r["error"])
            if "return" in r:
                return r["return"]

    def capabilities(self, *names):
        self.cmd("migrate-set-capabilities", capabilities=[
            {"capability": c, "state": True} for c in names])

    def close(self):
        self.process.kill()
        self.process.wait()


def listen(path, n):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(n)
    return listener


def save(path, data):
    with open(path, "wb") as o:
        o.write(data)
    print(path, len(data), "bytes")


def device_stream(vm, mig, out):
    vm.capabilities("x-ignore-shared", "return-path")
    listener = listen(mig, 1)
    vm.cmd("migrate", uri="unix:" + mig)
    c, _ = listener.accept()
    c.settimeout(1.0)  # QEMU keeps it open: a second of silence is the end
    data = b""
    try:
        while True:
            data += c.recv(65536)
    except socket.timeout:
        pass
    save(out, data)


def multifd(vm, mig, out, method):
    vm.capabilities("multifd")
    vm.cmd("migrate-set-parameters", **{"multifd-channels": 2,
                                        "multifd-compression": method})
    listener = listen(mig, 3)
    vm.cmd("migrate", uri="unix:" + mig)
    data = [bytearray(), bytearray(), bytearray()]

    def read(c, into):
        while True:
            piece = c.recv(65536)
            if not piece:
                return
            into += piece

    threads = []
    for into in data:
        c, _ = listener.accept()
        threads.append(threading.Thread(target=read, args=(c, into)))
        threads[-1].start()
    for t in threads:
        t.join()
    for d in data:
        main = d[:4] == b"QEVM"
        save(out + (".main" if main else f".ch{d[24]}"), d)


def main(qemu, out, kind="device", method="none"):
    with tempfile.TemporaryDirectory() as d:
        device = kind == "device"
        vm = Vm(qemu, d, bytes(RAM) if device else pattern(),
                "on" if device else "off")
        try:
            if device:
                device_stream(vm, d + "/mig", out)
            else:
                multifd(vm, d + "/mig", out, method)
        finally:
            vm.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
