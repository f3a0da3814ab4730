import json
import math

import pytest

from jax_attn.parity.report import LeftOut, Report, Result
from jax_attn.parity.text import alike


def result(
    name="w", lane="float64", kind="gradient", error=1e-14, bound=1e-12, ratio=None, passed=True, case="plain"
):
    return Result(
        case, lane, kind, name, error, bound, ratio, passed, "" if passed else "at [0]: flax 1, torch 2"
    )


def mixed() -> Report:
    return Report(
        "pair",
        [
            result("output", kind="output"),
            result(),
            result("bad", error=1e-3, passed=False),
            result("worse", error=math.nan, passed=False),
            result(lane="float32", error=1e-7, ratio=1.5, bound=2.0),
            result("noisy", lane="float32", error=math.inf, ratio=math.inf, bound=2.0, passed=False),
            result("x", kind="input gradient", error=1e-13),
        ],
        [LeftOut("plain", "dropout", "(all)", "no dropout")],
        1.5,
    )


def test_it_passes_if_something_was_compared_and_all_of_it_passed():
    assert not Report().passed
    assert Report(results=[result()]).passed
    assert not mixed().passed
    Report(results=[result()]).assert_passed()
    with pytest.raises(AssertionError, match="FAILED, nothing was compared"):
        Report().assert_passed()


def test_the_error_shows_what_failed_and_how_many_were_compared():
    with pytest.raises(AssertionError) as caught:
        mixed().assert_passed()
    text = str(caught.value)
    assert "pair: FAILED, 3 of 7 comparisons in 2 lanes, 1 case; 1 not compared" in text
    assert "1 cases" not in text
    lines = [line.split() for line in text.splitlines()[2:]]
    assert [line[3] for line in lines] == ["worse", "noisy", "bad"]
    assert "at [0]: flax 1, torch 2" in text


def test_the_worst_is_the_furthest_beyond_its_bound():
    report = mixed()
    assert report.worst("float64", "output").name == "output"
    assert report.worst("float64", "gradient").name == "worse"
    assert report.worst("float64", "input gradient").name == "x"
    assert report.worst("float32").name == "noisy"
    assert report.worst("bfloat16") is None
    assert [r.name for r in report.select("float64", "gradient")] == ["w", "bad", "worse", "x"]


def test_the_text_is_a_table():
    text = str(mixed())
    assert "lane     compared  worst output  worst gradient  bound  verdict" in text
    assert "float32  2         -             inf             2      FAILED" in text
    assert "dropout  (all)  no dropout" in text
    lines = text.splitlines()
    assert all(line == line.rstrip() for line in lines)
    many = Report(results=[result(str(i), error=1.0, passed=False) for i in range(50)])
    assert "... and 45 more" in str(many)
    assert many.text(verbose=True).count("FAILED   at") == 50


def test_the_answer_comes_first():
    report = mixed()
    report.first_divergence, report.diagnosis = "here", "therefore"
    verdict, where, why, *tables = str(report).split("\n\n")
    assert (verdict[:12], where, why) == ("pair: FAILED", "here", "therefore")
    assert tables[0].startswith("lane")


def test_what_raises_in_every_lane_is_told_once():
    raised = [
        result("torch", lane, "run", math.nan, passed=False, case="") for lane in ("float64", "bfloat16")
    ]
    text = str(Report("pair", raised))
    assert text.count("at [0]: flax 1, torch 2") == 1
    assert "float64, bfloat16" in text
    assert text.startswith("pair: FAILED, nothing was compared")


def test_a_passing_report_shows_the_worst_of_each_lane():
    text = Report("pair", [result(), result("v", error=5e-13)]).text(verbose=True)
    assert "pair: passed, 2 comparisons in 1 lane, 1 case" in text
    assert "5e-13" in text
    assert "1e-14" not in text


def test_the_first_line_tells_what_was_not_compared():
    left_out = [LeftOut(case, "float64", name, "no counterpart") for case in "ab" for name in "vw"]
    first, *_ = str(Report("pair", [result()], left_out)).splitlines()
    assert first == "pair: passed, 1 comparison in 1 lane, 1 case; 2 not compared"


def test_lines_that_differ_in_the_number_of_a_layer_are_one():
    lines = ["layers.0.norm: eps", "layers.0.out: bias", "layers.11.norm: eps", "blocks.1: eps 1.0"]
    assert alike(lines) == ["layers.*.norm: eps (2 of them)", "layers.0.out: bias", "blocks.1: eps 1.0"]


def test_json_there_and_back(tmp_path):
    report = mixed()
    report.save_json(tmp_path / "report.json")
    data = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)
    assert (data["passed"], data["compared"], data["failed"]) == (False, 7, 3)
    assert data["results"][3]["error"] == "nan"
    assert data["results"][5]["ratio"] == "inf"
    back = Report.from_json(data)
    assert repr(back) == repr(report)
    assert str(back) == str(report)


def test_merged_reports_keep_apart_whose_case_is_whose():
    one, other = Report("one", [result()], seconds=1.0), Report("other", [result(case="")], seconds=2.0)
    whole = Report.merged([one, other], "all")
    assert [r.case for r in whole.results] == ["one: plain", "other"]
    assert (whole.seconds, whole.passed, whole.title) == (3.0, True, "all")
    assert not Report.merged([one, mixed()]).passed
    assert Report.merged([mixed()]).left_out[0].case == "pair: plain"
