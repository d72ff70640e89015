# SPDX-License-Identifier: BSD-3-Clause
"""docs/benchmarks.md, from what all.py has recorded and bench/notes.md: text
and pictures, nothing is run.
"""
import report

INTRO = """\
# Benchmarks

Written by `make bench`{quick}; what is said about the numbers is kept in
`bench/notes.md`. Every number is of one machine, and of both programs in one go: they take turns,
with the same QEMU program, the same guest and the same options. Compare sides, not machines.
"""
QUICK = " (here: `make bench-quick`)"
WARNING = """
**A quick run: one measurement of each side, with small guests. It shows that every row works, and
no more; docs/benchmarks.md has the numbers of a full run.**
"""
READ = """
A cell is the median (smallest..largest) of all runs. "x better" is how many times better than the
best of QEMU's sides in that case: the quotient of the medians, above 1 where godwit is ahead.
"""


def metrics_of(result):
    return [report.Metric(**m) for m in result["metrics"]]


def machine_table(machine):
    return "\n".join(["| | |", "|---|---|",
                      *(f"| {k} | {v} |" for k, v in machine.items())])


def goals_table(rows, records):
    lines = ["| row | goal | measured | reached |", "|---|---|---|---|"]
    for row in rows:
        result = records.get(row.name, {}).get("result")
        for goal in row.goals:
            found = result and goal.look(result["samples"],
                                         metrics_of(result))
            measured, reached = found or ("not measured", None)
            lines.append(f"| {row.title} | {goal.text} | {measured} | " +
                         {True: "yes", False: "**no**", None: ""}[reached] +
                         " |")
    return "\n".join(lines)


def question(result):
    """The first sentence of what the program says of itself."""
    return result["doc"].strip().split("\n")[0]


def section(row, record, note, pictures):
    lines = [f"## {row.title}"]
    result = record.get("result")
    if result:
        lines += [question(result), report.markdown_table(
            result["samples"], metrics_of(result))]
    if record.get("text"):
        text = record["text"].strip("\n")
        lines += [text if text.startswith("|") else f"```\n{text}\n```"]
    if record["status"] != "ok":
        lines += [f"**{record['status']}**: {record['why']}"]
    lines += [f"![{row.title}](benchmarks/{p})" for p in pictures]
    if note:
        lines += [note]
    lines += [f"`{record['command']}`, {record['date']}, load before "
              f"{record['load']:.2f}, {record['seconds']:.0f} s"]
    return "\n\n".join(lines)


def notes_of(text):
    """{name: text} of the sections "## name"."""
    out = {}
    for part in text.split("\n## ")[1:]:
        name, _, body = part.partition("\n")
        out[name.strip()] = body.strip()
    return out


def draw(row, record):
    """{file name: SVG} of a row; nothing where nothing was measured."""
    result = record.get("result")
    if not result:
        return {}
    drawn = {f"{row.name}{suffix}.svg": picture(result["samples"],
                                                metrics_of(result))
             for suffix, picture in row.pictures.items()}
    return {name: svg for name, svg in drawn.items() if svg}


def document(rows, machine, records, notes, quick):
    """The text, and the pictures {file name: SVG}."""
    notes, pictures = notes_of(notes), {}
    parts = [INTRO.format(quick=QUICK if quick else "") +
             (WARNING if quick else "") + READ, machine_table(machine)]
    if not quick:
        parts += ["## Goals", goals_table(rows, records)]
    missing = []
    for row in rows:
        record = records.get(row.name)
        if record is None or record["status"] == "not run":
            why = record["why"] if record else "not asked for"
            missing.append(f"| {row.title} | {why} |")
            continue
        drawn = draw(row, record)
        pictures.update(drawn)
        parts.append(section(row, record, notes.get(row.name), drawn))
    if missing:
        parts += ["## Not run", "\n".join(["| row | why |", "|---|---|",
                                           *missing])]
    return "\n\n".join(p.strip() for p in parts) + "\n", pictures
