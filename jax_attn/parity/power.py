"""What a comparison can see: known mutations are injected into one side, one by one, and it has to find each.

A comparison that passes says as much as its inputs ask: without a mask no inverted mask is seen, and in
bfloat16 no GELU of another form.
"""

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flax import nnx

from jax_attn.parity import tolerances
from jax_attn.parity.cases import Case
from jax_attn.parity.comparison import Comparison
from jax_attn.parity.judging.judge import Pair
from jax_attn.parity.judging.lane_run import LaneRun, torch_sides
from jax_attn.parity.lanes import LANES, Lane, lanes_named
from jax_attn.parity.mutations import Injected, Mutation, inject, mutations_for
from jax_attn.parity.mutations.injection import observed
from jax_attn.parity.report import Report, Result
from jax_attn.parity.runners.torch_copy import copied
from jax_attn.parity.text import plain, table
from jax_attn.parity.training.report import TrainingReport

# A noise ratio this far above its bound is no bad luck, and is not measured again.
BEYOND_DOUBT = 10.0


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

    @property
    def caught(self) -> bool:
        """Whether the mutation acted, and the exact lane that has to catch it did."""
        return self.acted and self.expected in self.lanes and self.lanes[self.expected].caught

    @property
    def error(self) -> float:
        """The largest error in that lane; NaN where it was not run."""
        return self.lanes[self.expected].error if self.expected in self.lanes else math.nan

    @property
    def caught_by(self) -> list[str]:
        """The lanes that caught it."""
        return [lane for lane, seen in self.lanes.items() if seen.caught]

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


def power(
    flax_module: nnx.Module,
    torch_module: Any,
    cases: Sequence[Case],
    lanes: Sequence[str] = LANES,
    mutations: Iterable[Mutation] | None = None,
    *,
    tolerance: float | None = None,
    title: str = "",
    progress: Callable[[str, str], None] = lambda lane, mutation: None,
    **options: Any,
) -> PowerReport:
    """Inject each mutation into a copy of the torch module, and compare it with Flax on the same calls.

    What your inputs cannot see, whether the lanes see all else, and whether a tolerance would:

    >>> print(power(flax_module, torch_module, [Case("", (x,))], tolerance=1e-3))  # doctest: +SKIP

    Args:
        flax_module: any NNX module.
        torch_module: its counterpart; neither is changed.
        cases: the calls, as in `compare_cases`.
        lanes: some of `LANES`.
        mutations: those to inject; None is all that fit the module.
        tolerance: an error of the outputs that you would accept; the mutations with a smaller one are named.
        title: what the report is called.
        progress: called with (lane, mutation) before each trial.
        options: `weights`, `names`, `whole_model`, `call_flax`, `call_torch` and `seed`, as in `compare_cases`.

    Raises:
        StateDictError: the weights of one side do not fit the other.
        ValueError: no cases, a mutation that does not fit the module, or a tolerance that is none.
    """
    started = time.perf_counter()
    _require_cases(cases)
    if tolerance is not None and not tolerance >= 0:
        raise ValueError(f"tolerance must be 0 or above, got {tolerance}")
    sides, _ = Comparison(flax_module, torch_module, **options).carry()
    torch = copied(sides.torch, share_weights=True)
    sides = replace(sides, torch=torch)
    with observed(torch):
        baseline = Report(title)
        runs = {lane: InjectedRun(sides, lane) for lane in lanes_named(lanes)}
        for lane, run in runs.items():
            baseline.results += results_of(run, [case for case in cases if case.runs_in(lane.name)])
    chosen = mutations_for(sides.flax, torch) if mutations is None else list(mutations)
    for mutation in chosen:
        if not mutation.fits(torch):
            raise ValueError(f"the mutation {mutation.name!r} does not fit {type(torch).__name__}")
    report = PowerReport(title, tolerance=tolerance, baseline=baseline)
    injected = [inject(mutation, torch, share_weights=True) for mutation in chosen]
    seen: dict[str, dict[str, Seen]] = {mutation.name: {} for mutation in chosen}
    for lane, run in runs.items():
        right = [result for result in baseline.results if result.lane == lane.name]
        if not right or not all(result.passed for result in right):
            continue
        for trial in injected:
            progress(lane.name, trial.mutation.name)
            with_mutation = run.of(trial, lane)
            results = list(results_of(with_mutation, [case for case in cases if case.runs_in(lane.name)]))
            seen[trial.mutation.name][lane.name] = _seen(results)
    for trial in injected:
        mutation = trial.mutation
        report.trials.append(
            Trial(
                mutation.name,
                mutation.summary,
                title,
                tuple(trial.hits.words),
                seen[mutation.name],
                bool(trial.hits.words),
                mutation.lane,
            )
        )
    report.seconds = time.perf_counter() - started
    return report


def _require_cases(cases: Sequence[Case]) -> None:
    strangers = [type(case).__name__ for case in cases if not isinstance(case, Case)]
    if strangers or not cases:
        given = f"a {strangers[0]} among them" if strangers else "none"
        raise ValueError(f"cases must be a list of Case(name, args, kwargs), got {given}")


class InjectedRun(LaneRun):
    """A lane whose torch module is exchanged, while Flax's stays compiled."""

    def of(self, injected: Injected, lane: Lane) -> "InjectedRun":
        """The same lane with a mutation in torch."""
        run = copy.copy(self)
        run.torch, run.truth = torch_sides(self.sides, injected.module, lane)
        return run

    def _measured_again(
        self, case: Case, call: Any, pairs: Sequence[Pair], noisy: Sequence[Result]
    ) -> dict[tuple[str, str], Result]:
        if any(not result.judged <= BEYOND_DOUBT * result.bound for result in noisy):
            return {}
        return super()._measured_again(case, call, pairs, noisy)


def results_of(run: LaneRun, cases: Sequence[Case]) -> Iterator[Result]:
    """The results of each case in turn."""
    for case in cases:
        attempt = run.attempt(case, lambda lane, case: None)
        run.run_flax(attempt)
        results, _ = run.verdict(attempt)
        yield from results


def _seen(results: Sequence[Result]) -> Seen:
    failed = [result for result in results if not result.passed]
    cases = tuple(dict.fromkeys(result.case for result in failed))
    outputs = [result for result in results if result.kind in ("output", "run")]
    raised = [result.detail for result in results if (result.kind, result.name) == ("run", "torch")]
    judged = max((_or_infinite(result.judged) for result in results), default=0.0)
    caught = bool(failed) and not raised
    return Seen(caught, _largest(results), judged, cases, _largest(outputs), next(iter(raised), ""))


def _largest(results: Sequence[Result]) -> float:
    return max((_or_infinite(result.error) for result in results), default=0.0)


def _or_infinite(value: float) -> float:
    return math.inf if math.isnan(value) else value


def cell(trial: Trial, lane: str) -> str:
    """What a lane makes of a trial, in a word."""
    seen = trial.lanes.get(lane)
    return "-" if seen is None else "caught" if seen.caught else "no"


def number(value: float) -> str:
    """An error in a table."""
    return "-" if math.isnan(value) else "no value" if math.isinf(value) else f"{value:.1e}"
