"""What a comparison of two trainings found, step by step."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jax_attn.parity.report import LeftOut, table
from jax_attn.parity.training.lint_optimizer import Finding

# In the order in which one causes the next; a moment goes by torch's name of it.
ORDER = (
    "run",
    "loss",
    "gradient",
    "clipped gradient",
    "moment",
    "learning rate",
    "update",
    "buffer",
    "drift",
)


@dataclass(frozen=True)
class Deviation:
    """One quantity of one parameter in one step.

    Attributes:
        lane: name of the lane.
        step: from 0; -1 where all steps are judged together.
        quantity: one of `ORDER`, or torch's name of a moment ("exp_avg").
        parameter: the torch key; empty where the quantity has none.
        error: how far Flax is from torch, in the measure of the quantity.
        bound: what it must not exceed.
        passed: the verdict.
        flax: Flax's value where the error is largest, or "" where there is none.
        torch: torch's value there.
        detail: where that is, and what is known of the cause.
    """

    lane: str
    step: int
    quantity: str
    parameter: str
    error: float
    bound: float
    passed: bool
    flax: str = ""
    torch: str = ""
    detail: str = ""

    @property
    def rank(self) -> int:
        """Its place in the order of cause."""
        return ORDER.index(self.quantity if self.quantity in ORDER else "moment")

    @property
    def severity(self) -> float:
        """The error in units of its bound; NaN is worst."""
        return math.inf if math.isnan(self.error) or not self.bound else self.error / self.bound

    def __str__(self) -> str:
        when = "over all steps" if self.step < 0 else f"in step {self.step}"
        what = f"{self.quantity} of {self.parameter}" if self.parameter else self.quantity
        values = f": flax {self.flax}, torch {self.torch}" if self.flax or self.torch else ""
        detail = f" ({self.detail})" if self.detail else ""
        return (
            f"{self.lane}, {when}: {what}{values}{detail}; error {_number(self.error)}, bound {self.bound:g}"
        )


@dataclass
class StepRow:
    """One line of the table: a step of one lane.

    Attributes:
        loss, norm, rate: loss, norm of all gradients, learning rate; of Flax and of torch. None: unknown.
        gradient: the largest error of a gradient.
        update: the largest error of an update, and `parameter`, whose it is.
        drift: how far the updates of the two free runs are apart, as a part of torch's largest.
        rounding: the same between torch and a torch that differs by roundings alone.
    """

    lane: str
    step: int
    loss: tuple[float, float]
    norm: tuple[float, float]
    rate: tuple[float | None, float | None]
    gradient: float | None = None
    update: float | None = None
    parameter: str = ""
    drift: float | None = None
    rounding: float | None = None


@dataclass
class TrainingReport:
    """Two trainings compared. It passed if updates were compared, torch's moved something, and all passed.

    Attributes:
        title: what was compared.
        steps: the table, in order.
        deviations: every comparison.
        left_out: what was not compared, and why.
        settings: those of the optimizers that differ, whether these steps show it or not.
        seconds: the time it took.
    """

    title: str = ""
    steps: list[StepRow] = field(default_factory=list)
    deviations: list[Deviation] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)
    settings: list[Finding] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether in every lane an update was compared, and everything that was compared passed."""
        lanes = {deviation.lane for deviation in self.deviations}
        compared = {deviation.lane for deviation in self.deviations if deviation.quantity == "update"}
        return bool(lanes) and lanes == compared and all(deviation.passed for deviation in self.deviations)

    @property
    def failures(self) -> list[Deviation]:
        """What did not pass: by lane, step and order of cause, the worst parameter first."""
        lanes = list(dict.fromkeys(deviation.lane for deviation in self.deviations))
        failing = [deviation for deviation in self.deviations if not deviation.passed]
        return sorted(failing, key=lambda d: (lanes.index(d.lane), d.step, d.rank, -d.severity))

    @property
    def first_divergence(self) -> Deviation | None:
        """The first of the failures: the earliest step, and in it what comes first in the order of cause."""
        return next(iter(self.failures), None)

    def worst(self, quantity: str, lane: str | None = None) -> Deviation | None:
        """The comparison of a quantity that is furthest beyond, or nearest to, its bound."""
        found = [d for d in self.deviations if d.quantity == quantity and lane in (None, d.lane)]
        return max(found, key=lambda deviation: deviation.severity, default=None)

    def assert_passed(self) -> None:
        """Raise an AssertionError that shows what differs first, unless everything passed."""
        if not self.passed:
            parts = self._headline(), self._failures(), self._settings()
            raise AssertionError("\n\n".join(part for part in parts if part))

    def to_json(self) -> dict[str, Any]:
        """As JSON has it: a number that is not finite becomes "nan", "inf" or "-inf"."""
        first = self.first_divergence
        return {
            "title": self.title,
            "passed": self.passed,
            "compared": len(self.deviations),
            "failed": len(self.failures),
            "seconds": self.seconds,
            "first_divergence": first and _plain(asdict(first)),
            "steps": [_plain(asdict(row)) for row in self.steps],
            "deviations": [_plain(asdict(deviation)) for deviation in self.deviations],
            "left_out": [asdict(entry) for entry in self.left_out],
            "settings": [str(finding) for finding in self.settings],
        }

    def save_json(self, path: str | Path) -> None:
        """Write `to_json()` to a file."""
        text = json.dumps(self.to_json(), indent=1, ensure_ascii=False, allow_nan=False)
        Path(path).write_text(text + "\n", encoding="utf-8")

    def __str__(self) -> str:
        parts = [self._headline(), self._failures(), self._settings(), self._table(), self._pooled()]
        if self.left_out:
            entries = dict.fromkeys((entry.lane, entry.name, entry.reason) for entry in self.left_out)
            parts.append("not compared:\n" + table([list(entry) for entry in entries]))
        return "\n\n".join(part for part in parts if part)

    def _headline(self) -> str:
        name = f"{self.title}: " if self.title else ""
        lanes = list(dict.fromkeys(row.lane for row in self.steps))
        steps = len({row.step for row in self.steps})
        counts = f"{len(self.deviations)} comparisons in {steps} steps, {' and '.join(lanes) or 'no lane'}"
        if self.passed:
            return f"{name}passed, {counts}"
        if not self.failures:
            return f"{name}FAILED, no update was compared"
        return f"{name}FAILED, {len(self.failures)} of {counts}"

    def _failures(self, most: int = 8) -> str:
        failing = self.failures
        if not failing:
            return ""
        # One line for each quantity of a step: its worst parameter stands for the others.
        first = {}
        for deviation in failing:
            first.setdefault((deviation.lane, deviation.step, deviation.quantity), deviation)
        lines = ["first divergence: " + str(failing[0])]
        lines += [f"  then {deviation}" for deviation in list(first.values())[1:most]]
        more = len(first) - most
        return "\n".join([*lines, f"  ... and {more} more"] if more > 0 else lines)

    def _settings(self) -> str:
        if not self.settings:
            return ""
        word = (
            "settings differ, though these steps do not show it:" if self.passed else "settings that differ:"
        )
        return "\n  ".join([word, *map(str, self.settings)])

    def _table(self) -> str:
        heads = ["lane", "step", "loss flax", "torch", "|gradient| flax", "torch", "lr flax", "torch"]
        rows = [[*heads, "gradient error", "update error", "worst update", "drift", "rounding alone"]]
        for row in self.steps:
            pairs = [_number(value, 7) for value in (*row.loss, *row.norm, *row.rate)]
            errors = [_number(row.gradient), _number(row.update), row.parameter or "-"]
            rows.append([row.lane, str(row.step), *pairs, *errors, _number(row.drift), _number(row.rounding)])
        return table(rows) if self.steps else ""

    def _pooled(self) -> str:
        pooled = [deviation for deviation in self.deviations if deviation.step < 0 and deviation.passed]
        return "\n".join(
            f"{d.lane}: {d.quantity}, {d.detail}: {d.error:.3g}, bound {d.bound:g}" for d in pooled
        )


def merged(reports: Sequence[TrainingReport], title: str = "") -> TrainingReport:
    """One report of those of several lanes."""
    whole = TrainingReport(title)
    for report in reports:
        whole.steps += report.steps
        whole.deviations += report.deviations
        whole.left_out += report.left_out
    return whole


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}g}"


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, tuple):
            return [plain(each) for each in value]
        return str(value) if isinstance(value, float) and not math.isfinite(value) else value

    return {key: plain(value) for key, value in values.items()}
