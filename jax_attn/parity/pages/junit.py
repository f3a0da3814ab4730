"""A report in the XML that continuous integration reads: a test case for each tensor and lane."""

import math
import re
import xml.etree.ElementTree as xml
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from jax_attn.parity.report import LeftOut, Report, Result
from jax_attn.parity.text import joined
from jax_attn.parity.tracing.divergence import ITSELF
from jax_attn.parity.training.report import Deviation, TrainingReport

# What XML 1.0 cannot hold, escaped or not: control characters, and halves of surrogate pairs.
FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class _Outcome:
    """A test case: `outcome` is "", "failure", "error" or "skipped"."""

    group: str
    name: str
    outcome: str = ""
    message: str = ""
    text: str = ""


def junit(report: Report, training: TrainingReport | None = None, remarks: str = "") -> str:
    """The document. It begins with a suite that fails, if one does, and that with where and why.

    Args:
        report: its title names the suite.
        training: a second suite.
        remarks: what else is known of why the report fails.
    """
    title = report.title or "parity"
    suites = [_suite(title, report.seconds, _of_report(title, report, remarks))]
    if training is not None:
        title = f"{title}, training"
        suites.append(_suite(title, training.seconds, _of_training(title, training)))
        if report.passed and not training.passed:
            suites.reverse()
    root = xml.Element("testsuites", _totals(suites))
    root.extend(suites)
    xml.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + xml.tostring(root, encoding="unicode") + "\n"


def _of_report(title: str, report: Report, remarks: str) -> Iterator[_Outcome]:
    if not report.results:
        yield _Outcome(title, "anything", "failure", "nothing was compared")
    elif not report.passed:
        first = report.first_divergence
        place = "" if first is None else first.flax_path or ITSELF
        yield _answer(title, place, report.headline, report.where, joined(report.why, remarks))
    for result in report.results:
        group = joined(title, result.lane, result.case, by=".")
        kind = "" if result.passed else "error" if result.kind == "run" else "failure"
        yield _Outcome(group, f"{result.kind} {result.name}", kind, _message(result), result.detail)
    yield from _skipped(title, report.left_out)


def _answer(title: str, place: str, headline: str, where: str, why: str) -> _Outcome:
    """What a reader wants first: the verdict, where, and why; the message holds the first line of each."""
    lines = [part.splitlines()[0] for part in (where, why) if part] or [headline]
    name = f"first divergence: {place}" if place else "verdict"
    return _Outcome(title, name, "failure", "; ".join(lines), joined(headline, where, why))


def _of_training(title: str, training: TrainingReport) -> Iterator[_Outcome]:
    if (first := training.first_divergence) is not None:
        place = joined(first.quantity, first.parameter, by=" of ")
        yield _answer(title, place, training.headline, training.where(), training.why)
    for deviation in training.deviations:
        step = "all steps" if deviation.step < 0 else f"step {deviation.step}"
        name = f"{step}: {deviation.quantity} {deviation.parameter}".rstrip()
        kind = "" if deviation.passed else "error" if deviation.quantity == "run" else "failure"
        yield _Outcome(f"{title}.{deviation.lane}", name, kind, _message(deviation), str(deviation))
    yield from _skipped(title, training.left_out)
    if not training.passed and not training.failures:
        yield _Outcome(title, "anything", "failure", "no update was compared")


def _skipped(title: str, left_out: Iterable[LeftOut]) -> Iterator[_Outcome]:
    for entry in left_out:
        group = joined(title, entry.lane, entry.case, by=".")
        yield _Outcome(group, entry.name, "skipped", f"not compared: {entry.reason}")


def _message(found: Result | Deviation) -> str:
    number = found.judged if isinstance(found, Result) else found.error
    if math.isnan(number) and found.detail:
        return found.detail
    what = "noise ratio" if isinstance(found, Result) and found.ratio is not None else "error"
    return f"{what} {number:.3g}, bound {found.bound:.3g}"


def _suite(title: str, seconds: float, outcomes: Iterable[_Outcome]) -> xml.Element:
    suite = xml.Element("testsuite", {"name": _clean(title)})
    for case in outcomes:
        names = {"classname": _clean(case.group), "name": _clean(case.name), "time": "0"}
        element = xml.SubElement(suite, "testcase", names)
        if case.outcome:
            child = xml.SubElement(element, case.outcome, {"message": _clean(case.message)})
            child.text = _clean(case.text)
    counts = {f"{kind}s": str(len(suite.findall(f"testcase/{kind}"))) for kind in ("failure", "error")}
    counts["skipped"] = str(len(suite.findall("testcase/skipped")))
    for key, value in {"tests": str(len(suite)), **counts, "time": f"{seconds:.3f}"}.items():
        suite.set(key, value)
    return suite


def _totals(suites: list[xml.Element]) -> dict[str, str]:
    totals = {
        key: str(sum(int(suite.get(key, "0")) for suite in suites))
        for key in ("tests", "failures", "errors", "skipped")
    }
    return {**totals, "time": f"{sum(float(suite.get('time', '0')) for suite in suites):.3f}"}


def _clean(text: str) -> str:
    return FORBIDDEN.sub("?", text)
