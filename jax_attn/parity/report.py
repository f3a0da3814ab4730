"""What a comparison found, tensor by tensor: to be read, asserted, saved and merged."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from jax_attn.parity.judging.errors import severity
from jax_attn.parity.text import count, joined, more, number, plain, save_json, table, used_columns
from jax_attn.parity.tracing.divergence import Divergence

MOST = 5
"""A short report names this many tensors: those that follow from the same cause are no news."""


@dataclass(frozen=True)
class Result:
    """One tensor of one case in one lane.

    Attributes:
        case: name of the case.
        lane: name of the lane.
        kind: "output", "gradient" (of a parameter), "input gradient", "buffer" (what the call left in it), or
            "run" where a side could not be run.
        name: of the output; of the parameter or buffer, by its torch key; of the input; or "flax" or "torch".
        error: `max|a - b| / max(1, max|b|)` in float64; `|jax - torch64| / |torch64|` in the noisy lanes; of
            numbers of very different size, each order of magnitude by itself, the worst.
        bound: what is judged (the error, or the noise ratio where there is one) must not exceed it.
        ratio: the noise ratio, in the float32 and bfloat16 lanes.
        passed: the verdict.
        detail: where the error lies, or what went wrong.
    """

    case: str
    lane: str
    kind: str
    name: str
    error: float
    bound: float
    ratio: float | None
    passed: bool
    detail: str = ""

    @property
    def judged(self) -> float:
        """The number that the bound is set for."""
        return self.error if self.ratio is None else self.ratio

    @property
    def severity(self) -> float:
        """The judged number in units of its bound: larger is worse, NaN is worst."""
        return severity(self.judged, self.bound)


@dataclass(frozen=True)
class LeftOut:
    """Something that was not compared, and why."""

    case: str
    lane: str
    name: str
    reason: str


def not_compared(left_out: Iterable[LeftOut]) -> list[list[str]]:
    """Return lane, name and reason of what was left out; what is the same in several cases once."""
    entries = ((entry.lane, entry.name, entry.reason) for entry in left_out)
    return [list(entry) for entry in dict.fromkeys(entries)]


@dataclass
class Report:
    """The results of a comparison. It passed if something was compared and all of it passed.

    Its text begins with the verdict, and how much was compared and not; then where the two begin to differ, and
    why, if `diagnose` was asked; then the tables.

    Attributes:
        title: what was compared.
        results: one for each tensor, case and lane.
        left_out: what was not compared.
        seconds: the time it took.
        parameters: how many numbers the Flax module learns.
        remarks: what the first line says beside the counts.
        first_divergence: the first submodule that does something else; None where nothing failed, where it
            was not asked for, or where the submodules all agree (`left_out` then says so).
        trace: every submodule's errors, a `ModuleTrace`, where the first divergence was asked for.
        diagnosis: why they differ, a `Diagnosis`; `diagnose` fills it in.
        compared: the modules and calls, a `Comparison`, for `diagnose`. Neither this nor the trace goes into
            the JSON, or to another process.
    """

    title: str = ""
    results: list[Result] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    seconds: float = 0.0
    parameters: int = 0
    remarks: list[str] = field(default_factory=list)
    first_divergence: Divergence | None = None
    trace: Any = field(default=None, repr=False)
    diagnosis: Any = field(default=None, repr=False, compare=False)
    compared: Any = field(default=None, repr=False, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "trace": None, "compared": None}

    @property
    def passed(self) -> bool:
        """Whether at least one tensor was compared, and every one passed."""
        return bool(self.results) and all(result.passed for result in self.results)

    @property
    def failures(self) -> list[Result]:
        """The results that did not pass, the worst first."""
        failing = [result for result in self.results if not result.passed]
        return sorted(failing, key=lambda result: -result.severity)

    @property
    def lanes(self) -> list[str]:
        """The lanes that have results, in order."""
        return list(dict.fromkeys(result.lane for result in self.results))

    def select(self, lane: str | None = None, kind: str | None = None) -> list[Result]:
        """The results of a lane and of a kind; "gradient" takes in the gradients of inputs."""
        return [
            result
            for result in self.results
            if lane in (None, result.lane)
            and (kind in (None, result.kind) or (kind == "gradient" and result.kind == "input gradient"))
        ]

    def worst(self, lane: str | None = None, kind: str | None = None) -> Result | None:
        """The result furthest beyond, or nearest to, its bound; None if there is none."""
        return max(self.select(lane, kind), key=lambda result: result.severity, default=None)

    def assert_passed(self) -> None:
        """Raise an AssertionError that shows what failed, unless everything passed."""
        if not self.passed:
            raise AssertionError(joined(self.headline, self.where, self.why, self._failing_table(), by="\n"))

    @classmethod
    def merged(cls, reports: Iterable["Report"], title: str = "") -> "Report":
        """One report of several; the title of each goes in front of the names of its cases."""
        whole = cls(title)
        for report in reports:
            whole.results += [replace(r, case=joined(report.title, r.case, by=": ")) for r in report.results]
            whole.left_out += [
                replace(r, case=joined(report.title, r.case, by=": ")) for r in report.left_out
            ]
            whole.seconds += report.seconds
            whole.parameters += report.parameters
            whole.remarks += [remark for remark in report.remarks if remark not in whole.remarks]
            if whole.first_divergence is None:
                whole.first_divergence, whole.trace = report.first_divergence, report.trace
        return whole

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON has it: a number that is not finite becomes "nan", "inf" or "-inf"."""
        return {
            "title": self.title,
            "verdict": self.verdict,
            "where": self.where,
            "why": self.why,
            "passed": self.passed,
            "compared": len(self.results),
            "failed": len(self.failures),
            "seconds": self.seconds,
            "parameters": self.parameters,
            "remarks": self.remarks,
            "results": plain(self.results),
            "left_out": plain(self.left_out),
            "first_divergence": self.first_divergence and self.first_divergence.to_json(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Report":
        """The inverse of `to_json`, but for the diagnosis."""
        results = [Result(**{**row, **_numbers(row)}) for row in data["results"]]
        left_out = [LeftOut(**row) for row in data["left_out"]]
        report = cls(data["title"], results, left_out, data["seconds"], data["parameters"])
        report.remarks = list(data.get("remarks", ()))
        if data.get("first_divergence"):
            report.first_divergence = Divergence.from_json(data["first_divergence"])
        return report

    def save_json(self, path: str | Path) -> None:
        """Write `to_json()` to a file."""
        save_json(path, self.to_json())

    def __str__(self) -> str:
        return self.text()

    def text(self, verbose: bool = False) -> str:
        """Return the verdict, where, why, and the tables: the worst of them, or, where `verbose`, all."""
        return joined(self.headline, self.where, self.why, self.tables(verbose))

    @property
    def verdict(self) -> str:
        """ "passed", "failed", or "nothing was compared"."""
        compared = any(result.kind != "run" for result in self.results)
        return "passed" if self.passed else "failed" if compared else "nothing was compared"

    @property
    def headline(self) -> str:
        """The verdict, and how much was compared."""
        name = f"{self.title}: " if self.title else ""
        if self.verdict == "nothing was compared":
            return f"{name}FAILED, nothing was compared"
        cases = len({result.case for result in self.results})
        compared = f"{count(len(self.results), 'comparison')} in {count(len(self.lanes), 'lane')}"
        compared += f", {count(cases, 'case')}"
        if self.left_out:
            compared += f"; {len(not_compared(self.left_out))} not compared"
        compared = "; ".join([compared, *self.remarks])
        return (
            f"{name}passed, {compared}"
            if self.passed
            else f"{name}FAILED, {len(self.failures)} of {compared}"
        )

    @property
    def where(self) -> str:
        """The first submodule that does something else; empty where there is none."""
        return "" if self.first_divergence is None else str(self.first_divergence)

    @property
    def why(self) -> str:
        """The causes that `diagnose` found; empty where it was not asked."""
        return "" if self.diagnosis is None else str(self.diagnosis)

    def tables(self, verbose: bool = False) -> str:
        """Return the lanes, the tensors that failed, and what was not compared; short unless `verbose`."""
        nearest = self._nearest_table() if verbose and self.passed else ""
        entries = not_compared(self.left_out)
        shown = entries if verbose else entries[: 2 * MOST]
        rest = more(len(entries) - len(shown))
        left_out = joined("not compared:", table(shown), rest, by="\n") if entries else ""
        summary = "" if self.verdict == "nothing was compared" else table(self.lane_rows())
        return joined(summary, self._failing_table(verbose), nearest, left_out)

    def lane_rows(self) -> list[list[str]]:
        """Return a row of text for each lane, below their heads; the last cell is "passed" or "FAILED"."""
        rows = [["lane", "compared", "worst output", "worst gradient", "bound", "verdict"]]
        for lane in self.lanes:
            results = self.select(lane)
            worst = (self.worst(lane, kind) for kind in ("output", "gradient"))
            numbers = ["-" if each is None else number(each.judged) for each in worst]
            verdict = "passed" if all(result.passed for result in results) else "FAILED"
            bound = number(max(result.bound for result in results))
            rows.append([lane, str(len(results)), *numbers, bound, verdict])
        return rows

    def _failing_table(self, verbose: bool = False) -> str:
        """What failed; a side that raised the same in several lanes is listed once, and not again after `where`."""
        failing = [result for result in self.failures if result.kind != "run"]
        raised: dict[tuple[str, ...], list[Result]] = {}
        for result in self.failures:
            if result.kind == "run" and result.detail not in self.where:
                raised.setdefault((result.case, result.name, result.detail), []).append(result)
        known = [replace(each[0], lane=", ".join(r.lane for r in each)) for each in raised.values()]
        shown = failing if verbose else failing[:MOST]
        return joined(_results_table([*known, *shown]), more(len(failing) - len(shown)), by="\n")

    def _nearest_table(self) -> str:
        worst = [self.worst(lane, kind) for lane in self.lanes for kind in ("output", "gradient")]
        return _results_table([result for result in worst if result is not None])


def _results_table(results: Sequence[Result]) -> str:
    rows = [["lane", "case", "kind", "name", "error", "ratio", "bound", "verdict", "detail"]]
    for r in results:
        numbers = ["" if value is None else number(value) for value in (r.error, r.ratio, r.bound)]
        rows.append([r.lane, r.case, r.kind, r.name, *numbers, "passed" if r.passed else "FAILED", r.detail])
    return table(used_columns(rows)) if results else ""


def _numbers(row: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a result, read from JSON."""
    return {key: None if row[key] is None else float(row[key]) for key in ("error", "bound", "ratio")}
