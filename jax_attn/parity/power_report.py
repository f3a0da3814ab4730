"""What a comparison was seen to see: every mutation that was injected, and what became of it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jax_attn.parity import tolerances
from jax_attn.parity.mutations.injection import Hits
from jax_attn.parity.mutations.mutation import Mutation
from jax_attn.parity.report import Report
from jax_attn.parity.text import plain, table
from jax_attn.parity.training.report import TrainingReport


@dataclass(frozen=True)
class Seen:
    """What a lane saw of a mutation.

    Attributes:
        caught: whether any tensor failed.
        error: the largest error of any tensor, infinite where a side could not be run or compared.
        judged: the worst number that the lane judges by: that error, or the noise ratio.
        cases: the cases that caught it.
        output: the largest error of an output.
        raised: what torch raised with the mutation in it; then nothing was compared, and nothing was caught.
    """

    caught: bool
    error: float
    judged: float
    cases: tuple[str, ...]
    output: float
    raised: str = ""


@dataclass(frozen=True)
class Trial:
    """A mutation, and what became of it.

    Attributes:
        mutation: its name.
        summary: what it is.
        pair: what it was injected into.
        words: what it did: (with it, without it).
        lanes: what each lane saw; a lane in which the correct pair fails is not there.
        acted: whether the inputs reached it.
        expected: the lane that has to catch it.
    """

    mutation: str
    summary: str
    pair: str
    words: tuple[tuple[str, str], ...]
    lanes: Mapping[str, Seen]
    acted: bool
    expected: str = "float64"

    @classmethod
    def of(cls, mutation: Mutation, title: str, hits: Hits, lanes: Mapping[str, Seen]) -> "Trial":
        """The trial of a mutation in the pair of that title."""
        words = tuple(hits.words)
        return cls(mutation.name, mutation.summary, title, words, lanes, bool(words), mutation.lane)

    @property
    def caught(self) -> bool:
        """Whether the mutation acted, and the exact lane that has to catch it did."""
        return self.acted and self.expected in self.lanes and self.lanes[self.expected].caught

    @property
    def error(self) -> float:
        """The largest error in that lane; NaN where it was not run."""
        return self.lanes[self.expected].error if self.expected in self.lanes else math.nan

    @property
    def verdict(self) -> str:
        """ "caught", "not reached" by the inputs, "without effect", "not run", "raised", or "MISSED"."""
        if self.caught:
            return "caught"
        if self.expected not in self.lanes:
            return "not run"
        if self.lanes[self.expected].raised:
            return "raised"
        if not self.acted:
            return "not reached"
        return "without effect" if self.error <= tolerances.MODULE / 10 else "MISSED"


@dataclass
class PowerReport:
    """The trials of one pair.

    Attributes:
        title: what was tried.
        trials: one for each mutation.
        baseline: the correct pair, compared in the same way.
        tolerance: the user's, as the largest `max|a - b| / max(1, max|b|)` of an output that would pass.
        seconds: the time it took.
    """

    title: str = ""
    trials: list[Trial] = field(default_factory=list)
    baseline: Report | TrainingReport = field(default_factory=Report)
    tolerance: float | None = None
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether the correct pair passes, and each mutation that the inputs reach is caught, one at least.

        A tolerance that lets one of them through does not pass.
        """
        return self.baseline.passed and bool(self.caught) and not self.missed and not self.tolerated

    @property
    def caught(self) -> list[Trial]:
        """The mutations that were caught."""
        return [trial for trial in self.trials if trial.caught]

    @property
    def missed(self) -> list[Trial]:
        """Those that changed something, and were not caught."""
        return [trial for trial in self.trials if trial.verdict in ("MISSED", "not run", "raised")]

    @property
    def unseen(self) -> list[Trial]:
        """Those that these inputs cannot show."""
        return [trial for trial in self.trials if trial.verdict in ("not reached", "without effect")]

    @property
    def tolerated(self) -> list[Trial]:
        """Those that are caught, and that the user's tolerance would let through."""
        if self.tolerance is None:
            return []
        return [trial for trial in self.caught if trial.lanes[trial.expected].output <= self.tolerance]

    def assert_passed(self) -> None:
        """Raise an AssertionError that says what was missed, unless everything was caught."""
        if not self.passed:
            raise AssertionError(str(self))

    def to_json(self) -> dict[str, Any]:
        """Everything, in the types of JSON."""
        trials = []
        for trial in self.trials:
            trials.append({**plain(trial), "verdict": trial.verdict})
        tolerated = [trial.mutation for trial in self.tolerated]
        head = {"title": self.title, "passed": self.passed, "seconds": self.seconds}
        return {**head, "tolerance": self.tolerance, "tolerated": tolerated, "trials": trials}

    def __str__(self) -> str:
        lanes = list(dict.fromkeys(lane for trial in self.trials for lane in trial.lanes))
        rows = [["mutation", "error", *lanes, "verdict"]]
        for trial in self.trials:
            rows.append(
                [trial.mutation, number(trial.error), *(cell(trial, lane) for lane in lanes), trial.verdict]
            )
        title = f"{self.title}: " if self.title else ""
        counts = f"{len(self.caught)} of {len(self.trials)} mutations caught"
        lines = [f"{title}{counts}", table(rows)]
        if not self.baseline.passed:
            lines.insert(0, f"the pair differs without any mutation; see its report\n{self.baseline}")
        if self.unseen:
            names = ", ".join(trial.mutation for trial in self.unseen)
            lines.append(f"these inputs could not have seen: {names}")
        for trial in self.trials:
            if trial.verdict == "raised":
                lines.append(f"{trial.mutation} was not compared: {trial.lanes[trial.expected].raised}")
        if self.tolerated:
            names = ", ".join(f"{t.mutation} ({number(t.lanes[t.expected].output)})" for t in self.tolerated)
            lines.append(f"a tolerance of {self.tolerance:g} lets through: {names}")
        return "\n\n".join(lines)


def cell(trial: Trial, lane: str) -> str:
    """What a lane makes of a trial, in a word."""
    seen = trial.lanes.get(lane)
    return "-" if seen is None else "caught" if seen.caught else "no"


def number(value: float) -> str:
    """An error in a table."""
    return "-" if math.isnan(value) else "no value" if math.isinf(value) else f"{value:.1e}"
