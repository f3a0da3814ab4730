"""What a comparison found, tensor by tensor: to be read, asserted, saved and merged."""

import json
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from jax_attn.parity.tracing.divergence import Divergence


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
        if math.isnan(self.judged):
            return math.inf
        if self.bound == 0:
            return math.inf if self.judged else 0.0
        return self.judged / self.bound


@dataclass(frozen=True)
class LeftOut:
    """Something that was not compared, and why."""

    case: str
    lane: str
    name: str
    reason: str


@dataclass
class Report:
    """The results of a comparison. It passed if something was compared and all of it passed.

    The first line of its text says how much was compared, and how much was not.

    Attributes:
        title: what was compared.
        results: one for each tensor, case and lane.
        left_out: what was not compared.
        seconds: the time it took.
        parameters: how many numbers the Flax module learns.
        first_divergence: the first submodule that does something else; None where nothing failed, where it
            was not asked for, or where the submodules all agree (`left_out` then says so).
        trace: every submodule's errors, a `ModuleTrace`, where the first divergence was asked for.
        compared: the modules and calls, a `Comparison`, for `diagnose`. Neither this nor the trace goes into
            the JSON, or to another process.
    """

    title: str = ""
    results: list[Result] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    seconds: float = 0.0
    parameters: int = 0
    first_divergence: Divergence | None = None
    trace: Any = field(default=None, repr=False)
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
            where = "" if self.first_divergence is None else f"\n{self.first_divergence}"
            raise AssertionError(f"{self._headline()}\n{self._failing_table()}{where}")

    @classmethod
    def merged(cls, reports: Iterable["Report"], title: str = "") -> "Report":
        """One report of several; the title of each goes in front of the names of its cases."""
        whole = cls(title)
        for report in reports:
            whole.results += [replace(r, case=_joined(report.title, r.case)) for r in report.results]
            whole.left_out += [replace(r, case=_joined(report.title, r.case)) for r in report.left_out]
            whole.seconds += report.seconds
            whole.parameters += report.parameters
            if whole.first_divergence is None:
                whole.first_divergence, whole.trace = report.first_divergence, report.trace
        return whole

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON has it: a number that is not finite becomes "nan", "inf" or "-inf"."""
        return {
            "title": self.title,
            "passed": self.passed,
            "compared": len(self.results),
            "failed": len(self.failures),
            "seconds": self.seconds,
            "parameters": self.parameters,
            "results": [{k: _plain(v) for k, v in asdict(result).items()} for result in self.results],
            "left_out": [asdict(entry) for entry in self.left_out],
            "first_divergence": self.first_divergence and self.first_divergence.to_json(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Report":
        """The inverse of `to_json`."""
        results = [Result(**{**row, **_numbers(row)}) for row in data["results"]]
        left_out = [LeftOut(**row) for row in data["left_out"]]
        report = cls(data["title"], results, left_out, data["seconds"], data["parameters"])
        if data.get("first_divergence"):
            report.first_divergence = Divergence.from_json(data["first_divergence"])
        return report

    def save_json(self, path: str | Path) -> None:
        """Write `to_json()` to a file."""
        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
        Path(path).write_text(text + "\n", encoding="utf-8")

    def __str__(self) -> str:
        parts = [self._headline(), self._summary()]
        parts.append(self._failing_table() if self.failures else self._worst_table())
        parts.append("" if self.first_divergence is None else str(self.first_divergence))
        if self.left_out:
            parts.append("not compared:\n" + table(self._entries()))
        return "\n\n".join(part for part in parts if part)

    def _entries(self) -> list[list[str]]:
        """Lane, name and reason of what was left out; what is the same in several cases once."""
        entries = ((entry.lane, entry.name, entry.reason) for entry in self.left_out)
        return [list(entry) for entry in dict.fromkeys(entries)]

    def _headline(self) -> str:
        name = f"{self.title}: " if self.title else ""
        if not self.results:
            return f"{name}FAILED, nothing was compared"
        cases = {result.case for result in self.results}
        counts = (_count(self.results, "comparison"), _count(self.lanes, "lane"), _count(cases, "case"))
        compared = "{} in {}, {}".format(*counts)
        if self.left_out:
            compared += f"; {len(self._entries())} not compared"
        if self.passed:
            return f"{name}passed, {compared}"
        return f"{name}FAILED, {len(self.failures)} of {compared}"

    def _summary(self) -> str:
        rows = [["lane", "compared", "worst output", "worst gradient", "bound", "verdict"]]
        for lane in self.lanes:
            results = self.select(lane)
            output, gradient = self.worst(lane, "output"), self.worst(lane, "gradient")
            passed = all(result.passed for result in results)
            rows.append(
                [
                    lane,
                    str(len(results)),
                    "-" if output is None else _number(output.judged),
                    "-" if gradient is None else _number(gradient.judged),
                    _number(max(result.bound for result in results)),
                    "passed" if passed else "FAILED",
                ]
            )
        return table(rows) if self.results else ""

    def _failing_table(self, most: int = 20) -> str:
        failing = self.failures
        text = _results_table(failing[:most])
        more = len(failing) - most
        return f"{text}\n... and {more} more" if more > 0 else text

    def _worst_table(self) -> str:
        worst = [self.worst(lane, kind) for lane in self.lanes for kind in ("output", "gradient")]
        return _results_table([result for result in worst if result is not None])


def _results_table(results: Sequence[Result]) -> str:
    if not results:
        return ""
    rows = [["lane", "case", "kind", "name", "error", "ratio", "bound", "verdict", "detail"]]
    for r in results:
        ratio = "" if r.ratio is None else _number(r.ratio)
        verdict = "passed" if r.passed else "FAILED"
        rows.append(
            [r.lane, r.case, r.kind, r.name, _number(r.error), ratio, _number(r.bound), verdict, r.detail]
        )
    return table(rows)


def table(rows: list[list[str]]) -> str:
    """Rows of cells, the first the heads, in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _count(things: Collection[Any], noun: str) -> str:
    return f"{len(things)} {noun}{'' if len(things) == 1 else 's'}"


def _number(value: float) -> str:
    return f"{value:.3g}"


def _numbers(row: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a result, read from JSON."""
    return {key: None if row[key] is None else float(row[key]) for key in ("error", "bound", "ratio")}


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _joined(title: str, case: str) -> str:
    return ": ".join(part for part in (title, case) if part)
