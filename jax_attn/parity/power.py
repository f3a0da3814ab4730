"""What a comparison can see: known mutations are injected into one side, one by one, and it has to find each.

A comparison that passes says as much as its inputs ask: without a mask no inverted mask is seen, and in
bfloat16 no GELU of another form.
"""

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from flax import nnx

from jax_attn.parity.cases import Case
from jax_attn.parity.comparison import Comparison
from jax_attn.parity.judging.attempt import ByTorch
from jax_attn.parity.judging.judge import Pair
from jax_attn.parity.judging.lane_run import LaneRun, torch_sides
from jax_attn.parity.lanes import LANES, Lane, lanes_named
from jax_attn.parity.mutations import Injected, Mutation, inject, mutations_for
from jax_attn.parity.mutations.calls import observed
from jax_attn.parity.power_report import PowerReport, Seen, Trial
from jax_attn.parity.report import Report, Result
from jax_attn.parity.runners.torch_copy import copied

# A noise ratio this far above its bound is no bad luck, and is not measured again.
BEYOND_DOUBT = 10.0


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
        for run in runs.values():
            baseline.results += results_of(run, cases)
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
            seen[trial.mutation.name][lane.name] = _seen(list(results_of(with_mutation, cases)))
    report.trials = [Trial.of(each.mutation, title, each.hits, seen[each.mutation.name]) for each in injected]
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
        self, case: Case, first: ByTorch, pairs: Sequence[Pair], noisy: Sequence[Result]
    ) -> dict[tuple[str, str], Result]:
        if any(not result.judged <= BEYOND_DOUBT * result.bound for result in noisy):
            return {}
        return super()._measured_again(case, first, pairs, noisy)


def results_of(run: LaneRun, cases: Sequence[Case]) -> Iterator[Result]:
    """The results of each case that runs in the lane."""
    for case in cases:
        if case.runs_in(run.lane.name):
            yield from run.verdict(run.attempt(case))[0]


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
