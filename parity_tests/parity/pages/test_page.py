"""The page of a report: one file, whole, that shows where and how much."""

import copy
import re
import xml.etree.ElementTree as xml
from dataclasses import replace
from functools import partial
from html.parser import HTMLParser

import numpy as np
import pytest
from flax import nnx

from jax_attn.parity.compare import compare_cases
from jax_attn.parity.judging.lane_run import LaneRun
from jax_attn.parity.locate import trace_modules
from jax_attn.parity.pages.error_maps import CELLS, along, error_maps
from jax_attn.parity.pages.junit import junit
from jax_attn.parity.pages.page import colour, page
from jax_attn.parity.report import LeftOut, Report, Result
from jax_attn.parity.tracing.differences import Difference
from jax_attn.parity.training.lint_optimizer import Finding
from jax_attn.parity.training.report import Deviation, TrainingReport
from parity_tests.docs.test_site import CHECKS
from parity_tests.parity.pairs import CASES, FlaxBlock, TorchBlock
from parity_tests.visualize.browser import browser

VOID = {"meta", "line", "rect", "circle", "polyline", "br"}


class Page(HTMLParser):
    """Checks that all is closed in order, and keeps what the tests ask for."""

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def count(self, tag, **wanted) -> int:
        return sum(
            each == tag and all(wanted[key] in (attrs.get(key) or "") for key in wanted)
            for each, attrs in self.tags
        )


@pytest.fixture(scope="module")
def failed():
    flax, torch = FlaxBlock("eps of LayerNorm", rngs=nnx.Rngs(0)), TorchBlock()
    case = replace(CASES[0], name="")
    report = compare_cases(flax, torch, [case], lanes=["float64"], title="a <port> & more", trace=True)
    return report, error_maps(partial(LaneRun, report.compared.carry()[0]), case, report)


@pytest.mark.slow
def test_it_can_be_read_on_a_phone_and_in_the_dark(failed, tmp_path):
    report, maps = failed
    path = tmp_path / "report.html"
    path.write_text(page(report, maps=maps), encoding="utf-8")
    with browser() as tab:
        for width, dark in ((400, False), (1200, True)):
            tab.open(path, width=width, dark=dark, ready="true")
            assert tab.ask(CHECKS) == tab.requests == tab.errors == []


def test_a_failed_report_shows_where_and_how_much(failed):
    report, maps = failed
    report = replace(report, diagnosis="the epsilon: 1e-06 in flax, 1e-05 in torch")
    text = page(report, maps=maps)
    found = Page(text)
    told = " ".join(found.text)
    assert "FAILED" in told
    assert "a <port> & more" in told  # escaped
    assert "first divergence, forward: norm (LayerNorm)" in told
    assert "the epsilon: 1e-06 in flax" in told
    assert found.count("strong") == 1
    names = {call.path for call in report.trace.calls}
    assert {"norm", "q", "k", "v", "out", "dropout"} <= names
    for name in names - {""}:
        assert found.count("span", title=f"{name} | {name}")
    assert found.count("span", **{"class": "chip e"}) > found.count("span", **{"class": "chip ok"}) > 0
    assert found.count("circle") == 2 * len(report.trace.calls)
    assert found.count("svg") == 1 + sum(len(each.axes) for each in maps)
    assert found.count("line", **{"class": "here"}) == 1


def test_a_module_stands_after_its_submodules_and_nan_at_the_upper_rim(failed):
    report = copy.copy(failed[0])
    report.trace = copy.copy(failed[0].trace)  # a copy of a report has none
    whole, first, *calls = report.trace.calls
    first = replace(first, output=replace(first.output, error=np.nan))
    report.trace.calls = [whole, first, *calls]
    found = Page(page(report))
    dots = [attrs for tag, attrs in found.tags if tag == "circle" and attrs["class"] == "s0"]
    tips = [text.partition(": ")[0] for text in found.text if re.fullmatch(r"[\w ]+: [-+.\w]+", text)]
    assert tips[: len(dots)] == [*(call.path for call in (first, *calls)), "the module"]
    assert float(dots[0]["cy"]) < min(float(dot["cy"]) for dot in dots[1:])


def test_of_many_tensors_the_rest_is_counted(failed):
    report = copy.copy(failed[0])
    report.results = [*report.results, *(replace(report.failures[0], name=f"x{i}") for i in range(30))]
    more = len(report.failures) - 20
    assert f"... and {more} more that differ." in " ".join(Page(page(report)).text)
    assert "more that differ" not in " ".join(Page(page(failed[0])).text)


def test_nan_is_the_darkest(failed):
    report, (first, *_) = failed
    axis = (np.nan, *[0.0] * (first.shape[0] - 1))
    found = Page(page(report, maps=[replace(first, axes=(axis, *first.axes[1:]))]))
    heat = [attrs["style"] for tag, attrs in found.tags if tag == "rect" and attrs.get("class") == "heat"]
    assert heat[:2] == ["opacity:1.00", "opacity:0.04"]


def test_what_agrees_is_shown_by_what_is_nearest_to_its_bound():
    near, far = (Result("", "float64", "output", name, error, 1e-12, None, True, "") for name, error in (
        ("near", 9e-13), ("far", 1e-16)
    ))  # fmt: skip
    told = " ".join(Page(page(Report("good", results=[far, near]))).text)
    assert told.index("near ") < told.index("far ")


def test_what_is_told_is_escaped_and_what_was_left_out_is_told():
    report = Report("x", left_out=[LeftOut("", "float64", "<mask>", "a buffer & no more")])
    text = page(report, remarks="<b>why</b>")
    assert "<b>why" not in text
    told = " ".join(Page(text).text)
    assert "<b>why</b>" in told
    assert "<mask> a buffer & no more" in told


def test_where_and_why_a_training_differs_come_before_the_tables():
    rate = Deviation("float64", 0, "learning rate", "", 0.1, 0.0, False, "0.2", "0.1")
    training = TrainingReport(deviations=[rate], settings=[Finding("learning rate", "0.2", "0.1")])
    good = Report("good", results=[Result("", "float64", "output", "y", 1e-16, 1e-12, None, True)])
    found = Page(page(good, training=training))
    assert "FAILED: good" in found.text
    heads = ["Where they begin to differ", "Why", "Lanes", "Training: FAILED"]
    assert [text for text in found.text if text in heads] == heads
    assert found.text[found.text.index("Why") + 1].endswith("learning rate: flax 0.2, torch 0.1")


def test_the_mark_stands_where_the_error_is_seen_first():
    """A module's own mutation shows in the submodule that is given it, which returns before the module does."""
    flax, torch = FlaxBlock("no scale", rngs=nnx.Rngs(0)), TorchBlock()
    case = replace(CASES[0], name="")
    report = compare_cases(flax, torch, [case], lanes=["float64"], trace=True)
    assert report.first_divergence.flax_path == ""
    found = Page(page(report))
    (mark,) = (attrs for tag, attrs in found.tags if tag == "line" and attrs.get("class") == "here")
    dots = [attrs for tag, attrs in found.tags if tag == "circle" and attrs["class"] == "s0"]
    bound = next(attrs for tag, attrs in found.tags if tag == "line" and attrs.get("class") == "bound")
    risen = [dot for dot in dots if float(dot["cy"]) < float(bound["y1"])]
    assert 1 < len(risen) < len(dots)
    assert float(mark["x1"]) == float(risen[0]["cx"])


def test_nothing_is_fetched_and_nothing_runs(failed):
    text = page(failed[0], maps=failed[1])
    assert not re.search(r"(?i)https?:|//|<script|<link|<img|@import|url\(|\son\w+=", text)
    assert "prefers-color-scheme: dark" in text


def test_a_passed_report(failed):
    flax, torch = FlaxBlock(rngs=nnx.Rngs(0)), TorchBlock()
    report = compare_cases(flax, torch, CASES[:1], lanes=["float64"], title="good")
    assert report.passed
    report.trace = trace_modules(flax, torch, *CASES[0].args)
    found = Page(page(report))
    told = " ".join(found.text)
    assert "passed" in told
    assert "FAILED" not in told
    assert "nearest to their bounds" in told
    assert "forward and backward" in told
    assert found.count("span", **{"class": "chip ok"}) > 10
    assert found.count("span", **{"class": "chip e"}) == found.count("strong") == 0


def test_a_report_without_a_trace_and_one_of_nothing(failed):
    report = copy.copy(failed[0])
    report.trace = report.first_divergence = None
    report.remarks = ["without gradients"]
    told = " ".join(Page(page(report)).text)
    assert "Modules" not in told
    assert "without gradients" in told
    (suite,) = xml.fromstring(junit(report))  # the verdict is the answer where nothing is known of the place
    assert suite[0].get("name") == "verdict"
    assert suite[0].find("failure").text == suite[0].find("failure").get("message") == report.headline
    told = " ".join(Page(page(Report())).text)
    assert "FAILED" in told
    assert "Nothing was compared" in told


def test_maps_lie_where_the_error_lies(failed):
    report, maps = failed
    assert [each.result for each in maps] == report.failures[: len(maps)]
    for each in maps:
        assert tuple(map(len, each.axes)) == each.shape
    error = np.zeros((3, 5, 100))
    error[1, 4, 99] = 2.0
    assert along(error, 0) == (0, 2, 0)
    assert along(error, 1) == (0, 0, 0, 0, 2)
    assert along(error, 2) == (*[0.0] * (CELLS - 1), 2)
    error[0, 0, 0] = np.nan
    assert np.isnan(along(error, 2)[0])


def test_the_colours_grow_with_the_error():
    def of(error: float, bound: float = 1e-12) -> str:
        return colour(Difference("x", error, bound))

    assert colour(None) == "none"
    assert [of(e) for e in (0, 1e-12, 2e-12, 1e-7, 1e-2, 1, np.nan, np.inf)] == [
        *("ok", "ok", "e1", "e2", "e4", "e5", "e5", "e5")
    ]
    assert of(1, bound=0) == of(0.5, bound=0) == "e5"
    assert of(0, bound=0) == "ok"
