"""What a comparison of two trainings found, step by step."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jax_attn.parity.judging.errors import severity
from jax_attn.parity.report import MOST, LeftOut, not_compared
from jax_attn.parity.text import count, joined, more, number, plain, save_json, table
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
        return severity(self.error, self.bound)

    def __str__(self) -> str:
        when = "over all steps" if self.step < 0 else f"in step {self.step}"
        what = f"{self.quantity} of {self.parameter}" if self.parameter else self.quantity
        values = f": flax {self.flax}, torch {self.torch}" if self.flax or self.torch else ""
        detail = f" ({self.detail})" if self.detail else ""
        return (
            f"{self.lane}, {when}: {what}{values}{detail}; error {number(self.error)}, bound {self.bound:g}"
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
            raise AssertionError(joined(self.headline, self.where(), self.why))

    def to_json(self) -> dict[str, Any]:
        """As JSON has it: a number that is not finite becomes "nan", "inf" or "-inf"."""
        return {
            "title": self.title,
            "verdict": "passed" if self.passed else "failed",
            "where": self.where(),
            "why": self.why,
            "passed": self.passed,
            "compared": len(self.deviations),
            "failed": len(self.failures),
            "seconds": self.seconds,
            "first_divergence": plain(self.first_divergence),
            "settings": [str(finding) for finding in self.settings],
            "steps": plain(self.steps),
            "deviations": plain(self.deviations),
            "left_out": plain(self.left_out),
        }

    def save_json(self, path: str | Path) -> None:
        """Write `to_json()` to a file."""
        save_json(path, self.to_json())

    def __str__(self) -> str:
        return self.text()

    def text(self, verbose: bool = False) -> str:
        """Return the verdict, where, why, and the tables: some of the steps, or, where `verbose`, all."""
        return joined(self.headline, self.where(verbose), self.why, self.tables(verbose))

    @property
    def headline(self) -> str:
        """The verdict, and how much was compared."""
        name = f"{self.title}: " if self.title else ""
        lanes = " and ".join(dict.fromkeys(row.lane for row in self.steps)) or "no lane"
        steps = count(len({row.step for row in self.steps}), "step")
        counts = f"{count(len(self.deviations), 'comparison')} in {steps}, {lanes}"
        if not self.passed and not self.failures:
            return f"{name}FAILED, no update was compared"
        return f"{name}passed, {counts}" if self.passed else f"{name}FAILED, {len(self.failures)} of {counts}"

    def where(self, verbose: bool = False) -> str:
        """Return what differs first, and what then: one line for each quantity of a step, its worst parameter."""
        first: dict[tuple[str, int, str], Deviation] = {}
        for deviation in self.failures:
            first.setdefault((deviation.lane, deviation.step, deviation.quantity), deviation)
        every = list(map(str, first.values()))
        shown = every if verbose else every[:MOST]
        lines = [f"{'  then' if place else 'first divergence:'} {each}" for place, each in enumerate(shown)]
        return joined(*lines, more(len(every) - len(shown)), by="\n")

    @property
    def why(self) -> str:
        """The settings of the optimizers that differ."""
        word = (
            "settings differ, though these steps do not show it:" if self.passed else "settings that differ:"
        )
        return "\n  ".join([word, *map(str, self.settings)]) if self.settings else ""

    def tables(self, verbose: bool = False) -> str:
        """Return the steps, and what was not compared; of each lane the first two and the last unless `verbose`."""
        heads = ["lane", "step", "loss flax", "torch", "|gradient| flax", "torch", "lr flax", "torch"]
        rows = [[*heads, "gradient error", "update error", "worst update", "drift", "rounding alone"]]
        shown = self.steps if verbose else self._some_steps()
        for row in shown:
            pairs = [number(value, 7) for value in (*row.loss, *row.norm, *row.rate)]
            errors = [number(row.gradient), number(row.update), row.parameter or "-"]
            rows.append([row.lane, str(row.step), *pairs, *errors, number(row.drift), number(row.rounding)])
        pooled = [
            f"{d.lane}: {d.quantity}, {d.detail}: {d.error:.3g}, bound {d.bound:g}"
            for d in self.deviations
            if d.step < 0 and d.passed
        ]
        steps = joined(table(rows), more(len(self.steps) - len(shown)), by="\n") if self.steps else ""
        left_out = (
            joined("not compared:", table(not_compared(self.left_out)), by="\n") if self.left_out else ""
        )
        return joined(steps, "\n".join(pooled), left_out)

    def _some_steps(self) -> list[StepRow]:
        """The first two steps and the last of each lane, and the first that differs."""
        first = self.first_divergence
        last = {row.lane: row for row in self.steps}
        return [
            row
            for row in self.steps
            if row.step < 2
            or row is last[row.lane]
            or (first is not None and (row.lane, row.step) == (first.lane, first.step))
        ]
