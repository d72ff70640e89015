# SPDX-License-Identifier: BSD-3-Clause
"""From what the benches measured to tables and pictures. Nothing here runs
anything: it is all functions of samples.

A sample is one measurement of one side in one case:

    {"case": "4096 MiB", "side": "godwit", "values": {"total-ms": 123, ...}}

With "completed": false it was given up, with "error": TEXT it failed, with
"error" and "skipped": true it could not run here. A side belongs to the
program that its name begins with (godwit, QEMU); others, like a limit, are
compared with nothing.
"""
import math
import statistics
from typing import NamedTuple
from xml.sax.saxutils import escape

OURS, THEIRS = "godwit", "QEMU"


class Metric(NamedTuple):
    """What a number is. The table shows it times @scale as @form."""
    key: str
    label: str
    scale: float = 1.0
    form: str = ".0f"
    more: bool = False     # is more better?
    factor: bool = False   # is the two programs' best compared by it?


class Spread(NamedTuple):
    median: float
    low: float
    high: float

    def show(self, m):
        mid, low, high = (format(v * m.scale, m.form) for v in self)
        return mid if low == high else f"{mid} ({low}..{high})"


def spread(values):
    """Of those that are there; None: none is."""
    v = [x for x in values if x is not None]
    return Spread(statistics.median(v), min(v), max(v)) if v else None


def percentile(values, p):
    """The smallest value that @p percent of all do not exceed."""
    v = sorted(values)
    return v[max(0, math.ceil(len(v) * p / 100) - 1)]


class Side:
    """All samples of one side in one case."""

    def __init__(self, samples):
        self.errors = [s["error"] for s in samples if "error" in s]
        self.skipped = any(s.get("skipped") for s in samples)
        runs = [s for s in samples if "error" not in s]
        self.done = [s for s in runs if s.get("completed", True)]
        self.tried = len(samples) if not self.skipped else 0
        self.runs = self.done or runs  # given up ones count if all are

    def get(self, key):
        return spread(s["values"].get(key) for s in self.runs)

    def completes(self):
        return len(self.done) * 2 > self.tried


def group(samples):
    """{case: {side: Side}}, in the order in which they came first."""
    out = {}
    for s in samples:
        out.setdefault(s["case"], {}).setdefault(s["side"], []).append(s)
    return {case: {side: Side(v) for side, v in sides.items()}
            for case, sides in out.items()}


def best(sides, program, m):
    """The best median of a program's sides that complete, or None."""
    v = [x.get(m.key).median for name, x in sides.items()
         if name.startswith(program) and x.completes() and x.get(m.key)]
    return (max if m.more else min)(v) if v else None


def factor(ours, theirs, more):
    """How many times better is ours? None: that has no answer."""
    a, b = (ours, theirs) if more else (theirs, ours)
    return a / b if a is not None and b else None


def factors(samples, metrics):
    """{case: {metric: times that godwit's best is better than QEMU's}}."""
    out = {}
    for case, sides in group(samples).items():
        out[case] = {}
        for m in metrics:
            f = factor(best(sides, OURS, m), best(sides, THEIRS, m), m.more)
            if f is not None:
                out[case][m.key] = f
    return out


def rows(samples, metrics):
    """The cells of a table, the first row its heads. One row per case and
    side; the factor is of the side against QEMU's best."""
    metrics = [m for m in metrics
               if any(s.get("values", {}).get(m.key) is not None
                      for s in samples)]
    compared = [m for m in metrics if m.factor]
    given_up = any("completed" in s for s in samples)
    yield (["", "", "runs", *(["done"] if given_up else []),
            *(m.label for m in metrics),
            *(f"{m.label.rsplit(',', 1)[0]}: x better" for m in compared)])
    for case, sides in group(samples).items():
        for name, side in sides.items():
            yield [case if side is next(iter(sides.values())) else "", name, str(side.tried), *(
                [f"{len(side.done)}/{side.tried}"] if given_up else []),
                *cells(side, metrics),
                *(against(sides, name, m) for m in compared)]


def cells(side, metrics):
    if not side.runs:
        why = "not run: " if side.skipped else "failed: "
        return [why + side.errors[0].strip().split("\n")[0],
                *[""] * (len(metrics) - 1)]
    found = [side.get(m.key) for m in metrics]
    return [s.show(m) if s else "-" for s, m in zip(found, metrics)]


def against(sides, name, m):
    """"2.1": that side against the best of QEMU's; "" where there is none."""
    side = sides[name]
    mine = side.get(m.key)
    if not name.startswith(OURS) or not mine or not side.completes():
        return ""
    f = factor(mine.median, best(sides, THEIRS, m), m.more)
    return "" if f is None else f"{f:.2f}"


def text_table(samples, metrics):
    """For a terminal."""
    table = list(rows(samples, metrics))
    width = [max(len(r[i]) for r in table) for i in range(len(table[0]))]
    return "\n".join("  ".join(
        c.ljust(w) if i < 2 else c.rjust(w)
        for i, (c, w) in enumerate(zip(r, width))).rstrip() for r in table)


def markdown_table(samples, metrics):
    head, *body = ([c.replace("|", "\\|") for c in r]
                   for r in rows(samples, metrics))
    lines = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(r) + " |" for r in lines)


# --- pictures --------------------------------------------------------------

WIDTH, BAR, TOP = 760, 18, 34
LONGEST, CHAR = 400, 6.6  # pixels: of a bar, about, of a character
COLOURS = {OURS: "#1b7f5c", THEIRS: "#c05a1c"}
OTHER = "#777777"
SHADES = ("#1b7f5c", "#2f6fb2", "#8a4fa3", "#c05a1c", "#777777")


def svg(width, height, title, body):
    return (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" '
            f'height="{height}" viewBox="0 0 {width} {height}" '
            'font-family="sans-serif" font-size="12">\n'
            "<!-- SPDX-License-Identifier: BSD-3-Clause -->\n"
            f'<rect width="{width}" height="{height}" fill="white"/>\n'
            + text(10, 20, title, weight="bold") + "".join(body) + "</svg>\n")


def text(x, y, what, anchor="start", weight="normal"):
    return (f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" '
            f'font-weight="{weight}">{escape(what)}</text>\n')


def line(x1, y1, x2, y2, colour="#333333", width=1.0):
    return (f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" '
            f'stroke="{colour}" stroke-width="{width}"/>\n')


def colour_of(side):
    return next((c for p, c in COLOURS.items() if side.startswith(p)), OTHER)


def bars_svg(samples, m, title):
    """A bar per case and side, as long as its median, with its spread."""
    shown = [(case, name, side.get(m.key), colour_of(name))
             for case, sides in group(samples).items()
             for name, side in sides.items() if side.get(m.key)]
    if not shown:
        return None
    left = 36 + CHAR * sum(max(len(row[i]) for row in shown) for i in (0, 1))
    scale = LONGEST / (max(s.high for _, _, s, _ in shown) or 1)
    body, y, last = [], TOP, None
    for case, name, s, colour in shown:
        if case != last:
            y += 8
            body.append(text(10, y + 13, case))
            last = case
        middle, low, high = y + BAR / 2, left + s.low * scale, \
            left + s.high * scale
        body += [text(left - 6, y + 13, name, "end"),
                 f'<rect x="{left:.1f}" y="{y + 2}" height="{BAR - 4}" '
                 f'width="{s.median * scale:.1f}" fill="{colour}"/>\n',
                 line(low, middle, high, middle, width=1.5),
                 text(high + 6, y + 13, format(s.median * m.scale, m.form))]
        y += BAR
    return svg(round(left + LONGEST + 80), y + 14,
               f"{title}: {m.label}, median and spread", body)


def ticks(low, high, log):
    """Some round numbers from @low to @high."""
    if log:
        first, last = (math.floor(math.log10(x)) for x in (low, high))
        steps = (1, 2, 5) if last - first < 3 else (1,)
        return [x for e in range(first, last + 1) for x in
                (step * 10.0 ** e for step in steps) if low <= x <= high]
    step = 10.0 ** math.floor(math.log10((high - low) or 1))
    while (high - low) / step < 4:
        step /= 2
    return [step * i for i in range(math.ceil(low / step),
                                    math.floor(high / step) + 1)]


class Axis:
    """Numbers to pixels from @start to @end."""

    def __init__(self, values, start, end, log=False):
        self.low, self.high = min(values), max(values)
        if not log:
            self.low = min(0.0, self.low)
        if self.low == self.high:
            self.high = self.low * 2 or 1.0
        self.start, self.end, self.log = start, end, log

    def __call__(self, v):
        low, high, v = ((math.log(x) for x in (self.low, self.high, v))
                        if self.log else (self.low, self.high, v))
        return self.start + (v - low) / (high - low) * (self.end - self.start)

    def ticks(self):
        return ticks(self.low, self.high, self.log)


def lines_svg(curves, title, x_label, y_label, log=False):
    """@curves: {name: [(x, y), ...]}. @log: both axes; numbers > 0 only."""
    curves = {n: [(x, y) for x, y in c if not log or x > 0 < y]
              for n, c in curves.items()}
    points = [p for c in curves.values() for p in c]
    if not points:
        return None
    bottom = 300
    ax = Axis([p[0] for p in points], 80, WIDTH - 190, log)
    ay = Axis([p[1] for p in points], bottom, TOP + 10, log)
    body = [line(ax.start, bottom, ax.end, bottom),
            line(ax.start, bottom, ax.start, ay.end),
            text((ax.start + ax.end) / 2, bottom + 34, x_label, "middle"),
            text(10, TOP + 4, y_label)]
    for v in ax.ticks():
        body += [line(ax(v), bottom, ax(v), bottom + 4),
                 text(ax(v), bottom + 17, f"{v:g}", "middle")]
    for v in ay.ticks():
        body += [line(ax.start, ay(v), ax.end, ay(v), "#dddddd"),
                 text(ax.start - 6, ay(v) + 4, f"{v:g}", "end")]
    for i, (name, curve) in enumerate(curves.items()):
        colour = COLOURS.get(name, SHADES[i % len(SHADES)])
        at = " ".join(f"{ax(x):.1f},{ay(y):.1f}" for x, y in curve)
        y = TOP + 20 + 18 * i
        body += [f'<polyline points="{at}" fill="none" stroke="{colour}" '
                 'stroke-width="2"/>\n',
                 line(ax.end + 14, y, ax.end + 34, y, colour, 3),
                 text(ax.end + 40, y + 4, name)]
    return svg(WIDTH, bottom + 46, title, body)


def distribution(samples, key, scale=1.0):
    """{side: [(percent, value), ...]}: so many percent are not above it."""
    by_side = {}
    for s in samples:
        v = s.get("values", {}).get(key)
        if v is not None:
            by_side.setdefault(s["side"], []).append(v * scale)
    return {side: [(100 * (i + 1) / len(v), x)
                   for i, x in enumerate(sorted(v))]
            for side, v in by_side.items()}
