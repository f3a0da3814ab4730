"""Compare a Flax module with a recorded run of torch. No torch is needed for it."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from flax import nnx

from jax_attn.parity import tolerances
from jax_attn.parity.compare import judge_training, require_gradients
from jax_attn.parity.comparison import Comparison
from jax_attn.parity.judging.lane_run import ByTorch, LaneRun
from jax_attn.parity.lanes import LANES, Lane, lanes_named
from jax_attn.parity.recorded.files import TorchTrace
from jax_attn.parity.report import LeftOut, Report
from jax_attn.parity.runners.calls import Call
from jax_attn.parity.runners.weight_transfer import Carried, Weights
from jax_attn.parity.tracing.module_pairs import Entry, ModuleNames, ModulePairs, flax_entries, pair_entries
from jax_attn.parity.tracing.recording import Recording
from jax_attn.parity.tracing.search import find
from jax_attn.parity.tracing.trace import Tracer
from jax_attn.parity.tracing.traced import ModuleTrace
from jax_attn.weights.rules import Names, slots

Progress = Callable[[str, str], None]


def compare_with_trace(
    flax_module: nnx.Module,
    recorded: TorchTrace,
    *,
    lanes: Sequence[str] = LANES,
    title: str = "",
    progress: Progress = lambda lane, case: None,
    trace: bool = True,
    **options: Any,
) -> Report:
    """`compare`, with what torch gave on another machine. The inputs are the recorded ones.

    The arguments are those of `compare_cases`; the weights are torch's, or None for Flax with its own.

    Raises:
        StateDictError: the recorded weights do not fit Flax.
        ValueError: a lane that does not exist, or Flax's weights, with which torch has not run.
    """
    started = time.perf_counter()
    chosen = lanes_named(lanes)
    sides, carried = recorded_sides(flax_module, recorded, **options)
    report = Report(title, parameters=sides.parameters)
    report.left_out += carried.told(chosen[0].name)
    judge_training(report, carried, sides.names, chosen[0].name)
    for lane in chosen:
        if lane.name not in recorded.draws:
            report.left_out.append(LeftOut("", lane.name, "(all)", "the trace does not hold this lane"))
            continue
        run = RecordedLaneRun(sides, lane, recorded)
        attempt = run.attempt(recorded.case, progress)
        run.run_flax(attempt)
        results, left_out = run.verdict(attempt)
        report.results += results
        report.left_out += left_out
        require_gradients(report, carried, lane)
    if trace and report.failures:
        report.trace = trace_against(recorded, sides, progress)
        report.first_divergence = find(report.trace)
        if report.first_divergence is None:
            reason = "every submodule that was compared agrees in float64"
            report.left_out.append(LeftOut("", "float64", "first divergence", reason))
    report.seconds = time.perf_counter() - started
    return report


def recorded_sides(
    flax: nnx.Module, recorded: TorchTrace, weights: Weights = "torch", **options: Any
) -> tuple[Comparison, Carried]:
    """Flax with torch's weights, or its own, beside what is known of torch."""
    if weights == "flax":
        raise ValueError('weights="flax" needs torch; a recorded run has torch\'s weights ("torch", or None)')
    cases = (recorded.case,)
    return Comparison(flax, recorded.module, cases, weights, seed=recorded.seed, **options).carry()


def trace_against(
    recorded: TorchTrace, sides: Comparison, progress: Progress = lambda lane, case: None
) -> ModuleTrace:
    """Every submodule, in float64."""
    tracer = RecordedTracer(recorded, sides)
    return tracer.trace(recorded.case, progress=lambda what: progress("float64", f"tracing {what}"))


class RecordedLaneRun(LaneRun):
    """A lane in which torch has run before."""

    def __init__(self, sides: Comparison, lane: Lane, recorded: TorchTrace):
        self.draws = recorded.draws[lane.name]
        super().__init__(sides, lane)

    def _ready_torch(self) -> None:
        """There is none."""

    def _torch_places(self) -> None:
        """Not recorded."""

    def _run_torch(self, call: Call, seed: int) -> ByTorch:
        draw = self.draws[seed - self.sides.seed]  # where there are no more, the first verdict stands
        return ByTorch(call, draw.skeleton, draw.run, draw.truth, None)


class RecordedTracer(Tracer):
    """A tracer that reads torch's side."""

    def __init__(self, recorded: TorchTrace, sides: Comparison):
        super().__init__(sides, *lanes_named(["float64"]), tolerances.MODULE)
        self.notes = ["torch's side is a recorded trace, in evaluation mode"]
        self.recording = recorded.recordings["float64"]

    def record_torch(self, call: Call, *, backward: bool = False) -> tuple[Recording, None]:
        """What was recorded, forward and backward at once."""
        return self.recording, None

    @staticmethod
    def paired(flax: nnx.Module, torch: Any, names: Names, modules: ModuleNames | None) -> ModulePairs:
        """The modules that correspond, by the paths that were recorded."""
        shared = {place.key for slot in slots(flax, names) for place in slot.places} & torch.weights.keys()
        theirs = (
            Entry(path, first, kind, frozenset(k for k in shared if not path or k.startswith(f"{path}.")))
            for first, paths, kind in torch.modules
            for path in paths
        )
        return pair_entries(flax_entries(flax, names, shared), theirs, names, modules)
