# SPDX-License-Identifier: BSD-3-Clause
"""What the benches make of their numbers, and that one of them runs."""
import json
import os
import re
import statistics
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

import harness

BENCH = os.path.join(harness.TOP, "bench")
sys.path.insert(0, BENCH)
import document  # noqa: E402
import lab  # noqa: E402
import measure  # noqa: E402
import report  # noqa: E402
import rows  # noqa: E402

MS = report.Metric("ms", "total ms", factor=True)
RATE = report.Metric("rate", "MiB/s", 1 / 1024, ".1f", more=True, factor=True)
SVG = "{http://www.w3.org/2000/svg}"


def sample(case, side, **kw):
    extra = {k: kw.pop(k) for k in ("completed", "error", "skipped")
             if k in kw}
    return {"case": case, "side": side, "values": kw, **extra}


def times(case, side, *ms):
    return [sample(case, side, ms=x) for x in ms]


def cells(table):
    return [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]]
            for line in table.split("\n")]


@pytest.mark.parametrize("n", [1, 2, 3, 30, 99, 100, 101])
def test_percentile_has_enough_below_it(n):
    values = [(x * 37) % n for x in range(n)]
    for p in (1, 50, 99, 100):
        at = report.percentile(values, p)
        assert at in values
        assert sum(v <= at for v in values) * 100 >= p * n
        assert sum(v < at for v in values) * 100 < p * n


def test_spread_leaves_out_what_was_not_measured():
    values = [5, None, 1, 9, None, 2]
    s = report.spread(values)
    assert s == (statistics.median([5, 1, 9, 2]), 1, 9)
    assert report.spread([None]) is None


def test_more_is_better_the_other_way_round():
    assert report.factor(100, 300, more=False) == 3
    assert report.factor(100, 300, more=True) == pytest.approx(1 / 3)
    assert report.factor(None, 3, more=False) is None
    assert report.factor(0, 3, more=False) is None


def test_a_table_compares_with_the_best_of_qemu():
    table = cells(report.markdown_table(
        times("4 GiB", "godwit", 10, 30, 20) +
        times("4 GiB", "QEMU", 400, 400) +
        times("4 GiB", "QEMU, multifd", 60, 100), [MS]))
    assert table[0] == ["", "", "runs", "total ms", "total ms: x better"]
    assert set(table[1]) == {"---"}
    assert table[2:] == [
        ["4 GiB", "godwit", "3", "20 (10..30)", "4.00"],
        ["", "QEMU", "2", "400", ""],
        ["", "QEMU, multifd", "2", "80 (60..100)", ""]]


def test_the_best_rate_is_the_highest():
    samples = [sample("unix", "godwit", rate=4096),
               sample("unix", "godwit, 2", rate=8192),
               sample("unix", "QEMU", rate=1024),
               sample("unix", "limit", rate=65536)]
    assert report.factors(samples, [RATE]) == {"unix": {"rate": 8.0}}
    table = cells(report.markdown_table(samples, [RATE]))
    assert [r[3:] for r in table[2:]] == [["4.0", "4.00"], ["8.0", "8.00"],
                                          ["1.0", ""], ["64.0", ""]]


def test_what_was_given_up_has_no_factor_and_no_part_in_a_median():
    samples = [sample("busy", "godwit", ms=7, completed=True),
               sample("busy", "godwit", ms=9000, completed=False),
               sample("busy", "godwit", ms=9, completed=True),
               sample("busy", "QEMU", ms=9000, completed=False)]
    assert report.factors(samples, [MS]) == {"busy": {}}
    table = cells(report.markdown_table(samples, [MS]))
    assert table[2] == ["busy", "godwit", "3", "2/3", "8 (7..9)", ""]
    assert table[3] == ["", "QEMU", "1", "0/1", "9000", ""]


def test_what_failed_says_so_in_its_row():
    table = cells(report.markdown_table(
        [*times("a", "godwit", 5),
         sample("a", "QEMU", error="no | such thing\nand more",
                skipped=False),
         sample("b", "QEMU", error="too small", skipped=True)], [MS]))
    assert table[3][:4] == ["", "QEMU", "1", "failed: no \\| such thing"]
    assert table[4][:4] == ["b", "QEMU", "0", "not run: too small"]


def bars(svg):
    root = ET.fromstring(svg)
    return [float(r.get("width")) for r in root.iter(SVG + "rect")][1:]


def test_bars_are_as_long_as_their_medians():
    svg = report.bars_svg(times("x & y", "godwit", 10, 20, 30) +
                          times("x & y", "QEMU", 80) +
                          times("z", "<limit>", 5), MS, "t")
    a, b, c = bars(svg)
    assert b == pytest.approx(4 * a, rel=0.01)
    assert a == pytest.approx(4 * c, rel=0.02)
    assert "SPDX-License-Identifier" in "\n".join(svg.split("\n")[:5])
    assert report.bars_svg([sample("a", "b")], MS, "t") is None


def test_round_numbers_are_on_the_axis():
    assert report.ticks(1, 1024, True) == [1, 10, 100, 1000]
    assert report.ticks(150, 900, True) == [200, 500]
    for low, high in ((0, 1), (0, 357.6), (0, 99999)):
        at = report.ticks(low, high, False)
        assert 4 <= len(at) <= 12 and at[0] == low and at[-1] <= high


def points(svg):
    return [[tuple(map(float, p.split(","))) for p in
             line.get("points").split()]
            for line in ET.fromstring(svg).iter(SVG + "polyline")]


def test_a_logarithmic_axis_has_decades_of_one_length():
    (curve,) = points(report.lines_svg(
        {"godwit": [(1, 10), (10, 100), (100, 1000), (1000, 0)]}, "t", "GiB",
        "ms", log=True))
    assert len(curve) == 3  # 0 has no logarithm
    xs, ys = zip(*curve)
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)
    assert ys[0] - ys[1] == pytest.approx(ys[1] - ys[2], abs=0.2)
    assert ys[2] < ys[0]  # up is more


def test_a_plain_axis_begins_at_nothing():
    (curve,) = points(report.lines_svg({"godwit": [(50, 10), (100, 30)]},
                                       "t", "%", "ms"))
    (x1, y1), (x2, y2) = curve
    assert (300 - y2) == pytest.approx(3 * (300 - y1), abs=0.3)
    assert (x2 - 80) == pytest.approx(2 * (x1 - 80), abs=0.3)


def test_a_distribution_ends_at_all_of_them():
    got = report.distribution(times("c", "godwit", 3, 1, 2, 4), "ms")
    assert got == {"godwit": [(25, 1), (50, 2), (75, 3), (100, 4)]}


def test_who_fails_twice_is_left_alone_and_the_others_go_on():
    calls = {"bad": 0, "slow": 0, "good": 0, "absent": 0}

    def bad():
        calls["bad"] += 1
        raise lab.Failed("broken")

    def slow():
        calls["slow"] += 1
        return {"ms": 1, "completed": False}

    def good():
        calls["good"] += 1
        return {"ms": 1}

    def absent():
        calls["absent"] += 1
        raise lab.CannotRun("none here")

    samples = measure.repeat(5, [("c", n, f) for n, f in (
        ("bad", bad), ("slow", slow), ("good", good), ("absent", absent))],
        lambda *_: None)
    assert calls == {"bad": 2, "slow": 2, "good": 5, "absent": 1}
    assert sum(s.get("error") == "broken" for s in samples) == 2
    assert [s["skipped"] for s in samples if s["side"] == "absent"] == [True]


# --- goals -----------------------------------------------------------------

def test_goals_look_at_the_worst_case():
    samples = (times("save, a", "godwit", 10) + times("save, a", "QEMU", 30) +
               times("save, b", "godwit", 10) + times("save, b", "QEMU", 12) +
               times("load", "godwit", 10) + times("load", "QEMU", 1))
    assert rows.times_better("ms", 1.5, "save")(samples, [MS]) == \
        ("1.20x (save, b)", False)
    assert rows.times_better("ms", 1.2, "save")(samples, [MS])[1]
    assert rows.times_better("ms", 1, "other")(samples, [MS]) is None


def test_a_tail_is_twice_the_median_at_most():
    long = times("c", "godwit", *[10] * 50, 21)
    assert not rows.tail("ms", 2)(long, [MS])[1]
    assert rows.tail("ms", 2)(times("c", "godwit", *[10] * 50, 20), [MS])[1]
    assert rows.tail("ms", 2)(times("c", "QEMU", 1), [MS]) is None


def test_convergence_is_counted_by_case():
    def done(case, side, completed):
        return sample(case, side, ms=1, completed=completed)
    samples = [done("a", "godwit", False), done("a", "godwit xbzrle", True),
               done("a", "QEMU", False), done("b", "godwit", False),
               done("b", "QEMU", True)]
    assert rows.converges_too(samples, [MS]) == ("0 of 1, not b", False)
    assert rows.converges_more(1)(samples, [MS]) == ("1: a", True)
    assert not rows.converges_more(2)(samples, [MS])[1]


# --- the document ----------------------------------------------------------

ROW = {"command": "bench/x.py -n 1", "date": "2000-01-01", "load": 0.5,
       "seconds": 3.0, "why": "", "status": "ok", "quick": False}


def result(key, *ours_and_theirs):
    """Of one case, a number for each side."""
    samples = [{"case": "4096 MiB", "side": side, "values": {key: value}}
               for side, value in zip(("godwit", "QEMU"), ours_and_theirs)]
    return {"doc": "How much?\n\nMore.", "samples": samples,
            "metrics": [MS._replace(key=key)._asdict()]}


def test_the_document_has_every_row_and_every_goal():
    idle = result("total-ms", 100, 399)
    text, pictures = document.document(rows.ROWS, {"CPU": "slow"}, {
        "idle": {**ROW, "result": idle},
        "zero": {**ROW, "status": "failed", "why": "it broke"},
        "gap": {**ROW, "status": "not run", "why": "no QEMU"}},
        "# Notes\n\n## idle\n\nWhy so.\n\n## full\n\nNever seen.\n", False)
    assert "| Idle guests | 4 GiB: total time 4 times better than QEMU's " \
        "best | 3.99x (4096 MiB) | **no** |" in text
    assert "**failed**: it broke" in text
    assert "| Downtime | no QEMU |" in text
    assert "| A full guest | not asked for |" in text
    assert "Why so." in text and "Never seen." not in text
    assert list(pictures) == ["idle.svg"] and "benchmarks/idle.svg" in text
    for row in rows.ROWS:
        assert row.title in text
        for goal in row.goals:
            assert goal.text in text


def run_all(build, out, *args):
    p = subprocess.run(
        [sys.executable, os.path.join(BENCH, "all.py"), "--out", str(out),
         "--json", str(out / "b.json"), *args], stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=600,
        env=dict(os.environ, GODWIT_BUILD=str(build)))
    with open(out / "b.json") as f:
        return p, json.load(f)["rows"], (out / "benchmarks.md").read_text()


def test_one_row_runs(tmp_path):
    if not os.path.exists(os.path.join(harness.BUILD, "bench", "zero")):
        pytest.skip("no build/bench/zero")
    p, records, text = run_all(harness.BUILD, tmp_path, "--quick", "--rows",
                               "zero")
    assert p.returncode == 0, p.stdout
    assert records["zero"]["status"] == "ok"
    assert "zero pages, cold" in text and "quick run" in text


def test_a_row_that_fails_does_not_stop_the_next(tmp_path):
    """And one that cannot run is no failure."""
    programs = tmp_path / "build" / "bench"
    programs.mkdir(parents=True)
    for name, script in (("zero", "echo half; echo why it broke >&2; exit 1"),
                         ("cache", "echo '| a |'")):
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    p, records, text = run_all(tmp_path / "build", tmp_path, "--rows", "zero",
                               "codec", "cache")
    assert p.returncode == 1
    assert {k: r["status"] for k, r in records.items()} == {
        "zero": "failed", "codec": "not run", "cache": "ok"}
    assert "**failed**: why it broke" in text and "half" in text
    assert "| Page codecs | there is no build/bench/codec |" in text
    (programs / "zero").write_text("#!/bin/sh\necho mended\n")
    p, records, text = run_all(tmp_path / "build", tmp_path, "--rows", "zero")
    assert p.returncode == 0 and "mended" in text  # and the others stay
    assert records["cache"]["text"].strip() == "| a |" and "| a |" in text
