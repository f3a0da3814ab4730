"""Compare a Flax module with a recorded run of torch. No torch is needed for it."""

import time
from collections.abc import Sequence
from typing import Any

from flax import nnx

from jax_attn.parity import tolerances
from jax_attn.parity.compare import begun, judge_lane, keep_trace
from jax_attn.parity.comparison import Comparison
from jax_attn.parity.judging.attempt import ByTorch, RunsOnSome
from jax_attn.parity.judging.lane_run import LaneRun, Progress
from jax_attn.parity.lanes import LANES, Lane, lanes_named
from jax_attn.parity.recorded.files import TorchTrace
from jax_attn.parity.report import LeftOut, Report
from jax_attn.parity.runners.calls import Call
from jax_attn.parity.runners.run import Run
from jax_attn.parity.runners.weight_transfer import Carried, Weights
from jax_attn.parity.tracing.recording import Recording
from jax_attn.parity.tracing.trace import Tracer
from jax_attn.parity.tracing.traced import ModuleTrace


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
    report = begun(title, sides, carried, chosen[0].name)
    for lane in chosen:
        if lane.name in recorded.draws:
            judge_lane(report, RecordedLaneRun(sides, lane, recorded), [recorded.case], carried, progress)
        else:
            report.left_out.append(LeftOut("", lane.name, "(all)", "the trace does not hold this lane"))
    if trace and report.failures:
        keep_trace(report, trace_against(recorded, sides, progress))
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

    def _torch_nearby(self, first: ByTorch, draw: int, seed: int) -> ByTorch:
        """What was recorded: with inputs moved, and the weights as they are."""
        if draw >= len(self.draws):
            raise RunsOnSome("nothing of torch was recorded")
        return self._run_torch(first.call.nearby(self.lane, draw), seed)

    def _flax_nearby(self, call: Call, torch: ByTorch, draw: int, seed: int) -> Run:
        return self._run_flax(torch, seed)

    def _run_torch(self, call: Call, seed: int) -> ByTorch:
        draw = self.draws[seed - self.sides.seed]
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
