#!/usr/bin/python3
# SPDX-License-Identifier: BSD-3-Clause
"""Run every bench (rows.py) in one go, and write docs/benchmarks.md.

What was measured goes to one JSON file (--json), from which the document is
written after each row; a row that fails says so in it and the others go on.
With --rows the others stay as they were recorded last; --render only writes
the document again; --quick has a document and a file of its own.
"""
import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time

import document
import lab
import measure
from rows import ROWS

HERE = os.path.dirname(os.path.abspath(__file__))


# --- the machine -----------------------------------------------------------

def output(*argv):
    """First line of what a program says, "" when it cannot be run."""
    try:
        r = subprocess.run(argv, stdout=subprocess.PIPE, cwd=lab.TOP,
                           stderr=subprocess.DEVNULL, text=True, check=False)
    except OSError:
        return ""
    return r.stdout.strip().split("\n")[0]


def read(path, prefix=""):
    """What follows @prefix in the first line that begins with it."""
    try:
        with open(path) as f:
            return next((x[len(prefix):].strip(" \t:\n") for x in f
                         if x.startswith(prefix)), "")
    except OSError:
        return ""


def machine(qemu):
    memory = int(read("/proc/meminfo", "MemTotal:").split()[0]) / 2**20
    huge = read("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
    huge = huge.partition("[")[2].partition("]")[0] or "unknown"
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "CPU": f"{read('/proc/cpuinfo', 'model name')}, {os.cpu_count()} "
               "cores",
        "memory": f"{memory:.0f} GiB, huge pages of shared memory: {huge}",
        "kernel": os.uname().release,
        "godwit": f"{output(lab.GODWIT, '--version')} "
                  f"({output('git', 'describe', '--always', '--dirty')})",
        "QEMU": output(qemu, "--version") if qemu else "none",
        "guests": "Linux under TCG: " +
                  ("/dev/kvm is not used" if os.path.exists("/dev/kvm")
                   else "there is no /dev/kvm"),
        "load before": " ".join(f"{x:.2f}" for x in os.getloadavg()),
    }


# --- a row -----------------------------------------------------------------

def command_of(row, options):
    """What is run for it, and what is said to have been."""
    if row.program.endswith(".py"):
        runs = 1 if options.quick else options.runs or row.runs or 5
        args = ["-n", str(runs), *(["--quick"] if options.quick else [])]
        path, shown = os.path.join(HERE, row.program), f"bench/{row.program}"
        run = [sys.executable, path, *args, "--json"]
    else:
        args = row.quick_args if options.quick else row.args
        path = os.path.join(lab.BUILD, "bench", row.program)
        shown, run = f"build/bench/{row.program}", [path, *args]
    return run, shlex.join([shown, *args]), path


def run_program(argv):
    """(exit code, stdout, the last of stderr), which is shown as it comes."""
    last = []
    with tempfile.TemporaryFile("w+") as out:
        p = subprocess.Popen(argv, stdout=out, stderr=subprocess.PIPE,
                             stdin=subprocess.DEVNULL, text=True)
        try:
            for line in p.stderr:
                print("  " + line, end="", flush=True)
                last = [*last[-9:], line]
            code = p.wait()
        finally:
            if p.poll() is None:
                p.terminate()
                p.wait()
        out.seek(0)
        return code, out.read(), "".join(last).strip()


def take(record, code, text, last):
    """What a program said, into its record."""
    if text.startswith("{"):
        record["result"] = json.loads(text)
    else:
        record["text"] = text
    why = last.split("\n")[-1] if last else f"exit code {code}"
    if code == measure.SKIPPED:
        record.update(status="not run", why=why)
    elif code:
        record.update(status="failed", why="see the table"
                      if "result" in record else why)


def run_row(row, options):
    argv, shown, path = command_of(row, options)
    record = {"command": shown, "quick": options.quick,
              "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
              "load": os.getloadavg()[0], "status": "ok", "why": ""}
    start = time.monotonic()
    if options.quick and not row.in_quick:
        record.update(status="not run", why="in a full run only")
    elif not os.path.exists(path):
        record.update(status="not run", why=f"there is no {shown.split()[0]}")
    else:
        take(record, *run_program(argv))
    record["seconds"] = time.monotonic() - start
    return record


# --- all of them -----------------------------------------------------------

def load(path):
    try:
        with open(path) as f:
            return json.load(f)
    except FileNotFoundError:
        return {"machine": {}, "rows": {}}


def write(path, text):
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "w") as f:
        f.write(text)


def publish(state, options):
    write(options.json, json.dumps(state, indent=1) + "\n")
    with open(os.path.join(HERE, "notes.md")) as f:
        notes = f.read()
    text, pictures = document.document(
        ROWS, state["machine"], state["rows"], notes,
        any(r["quick"] for r in state["rows"].values()))
    for name, svg in pictures.items():
        write(os.path.join(options.out, "benchmarks", name), svg)
    write(os.path.join(options.out, "benchmarks.md"), text)


def run_all(state, options):
    for row in ROWS:
        if options.rows and row.name not in options.rows:
            continue
        print(f"== {row.name}", flush=True)
        record = run_row(row, options)
        state["rows"][row.name] = record
        print(f"== {row.name}: {record['status']}"
              f"{': ' + record['why'] if record['why'] else ''}, "
              f"{record['seconds']:.0f} s", flush=True)
        publish(state, options)


def find_qemu():
    try:
        return lab.find_qemu()
    except lab.CannotRun:
        return None


def arguments():
    p = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--quick", action="store_true",
                   help="one run of each, small guests: under 3 minutes")
    p.add_argument("-n", "--runs", type=int, default=0,
                   help="of each side (5; gap 30)")
    p.add_argument("--rows", nargs="+", metavar="ROW",
                   choices=[r.name for r in ROWS],
                   help="of " + ", ".join(r.name for r in ROWS))
    p.add_argument("--render", action="store_true",
                   help="run nothing, write the document again")
    p.add_argument("--json", metavar="FILE",
                   help="what was measured ($GODWIT_BUILD/bench.json; "
                   "--quick: bench-quick.json)")
    p.add_argument("--out", metavar="DIR",
                   help="where benchmarks.md and benchmarks/ go (docs; "
                   "--quick: $GODWIT_BUILD/bench-quick)")
    options = p.parse_args()
    name = "bench-quick" if options.quick else "bench"
    options.json = options.json or os.path.join(lab.BUILD, name + ".json")
    options.out = options.out or (os.path.join(lab.BUILD, name) if
                                  options.quick else
                                  os.path.join(lab.TOP, "docs"))
    return options


def main():
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    keep = options.render or options.rows
    state = load(options.json) if keep else {"rows": {}}
    if options.render:
        publish(state, options)
        return 0
    state["machine"] = machine(find_qemu())
    try:
        run_all(state, options)
    except KeyboardInterrupt:
        return 130
    print(f"{options.out}/benchmarks.md, {options.json}")
    return int(any(r["status"] == "failed" for r in state["rows"].values()))


if __name__ == "__main__":
    sys.exit(main())
