#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Capture the device stream of a real QEMU: what `migrate` writes with
x-ignore-shared and a return path, from a machine without firmware, so that
nothing but QEMU's own framing is in the file. usage: capture.py QEMU OUT

Run by hand when a new QEMU release is to be covered; the files are committed.
"""
import json
import os
import socket
import subprocess
import sys
import tempfile
import time


def main(qemu, out):
    with tempfile.TemporaryDirectory() as d:
        qmp, mig = d + "/qmp", d + "/mig"
        p = subprocess.Popen(
            [qemu, "-machine", "none,memory-backend=ram", "-object",
             "memory-backend-file,id=ram,size=1M,share=on,mem-path=" + d +
             "/ram", "-m", "1M", "-nodefaults", "-display", "none", "-S",
             "-qmp", f"unix:{qmp},server=on,wait=off"])
        try:
            capture(qmp, mig, out)
        finally:
            p.kill()
            p.wait()


def capture(qmp, mig, out):
    while not os.path.exists(qmp):
        time.sleep(0.05)
    s = socket.socket(socket.AF_UNIX)
    s.connect(qmp)
    f = s.makefile("rw")

    def cmd(name, **args):
        f.write(json.dumps({"execute": name, "arguments": args}) + "\n")
        f.flush()
        while True:
            r = json.loads(f.readline())
            if "return" in r or "error" in r:
                return r
    f.readline()
    cmd("qmp_capabilities")
    for c in ("x-ignore-shared", "return-path"):
        cmd("migrate-set-capabilities",
            capabilities=[{"capability": c, "state": True}])
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(mig)
    listener.listen(1)
    cmd("migrate", uri="unix:" + mig)
    c, _ = listener.accept()
    c.settimeout(1.0)  # QEMU keeps it open: a second of silence is the end
    data = b""
    try:
        while True:
            data += c.recv(65536)
    except socket.timeout:
        pass
    with open(out, "wb") as o:
        o.write(data)
    print(out, len(data), "bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
