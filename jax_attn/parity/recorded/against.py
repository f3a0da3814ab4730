"""Compare a Flax module with a recorded run of torch. No torch is needed for it."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from flax import nnx

from jax_attn.parity import tolerances
from jax_attn.parity.compare import SMALL, judge_training, require_gradients
from jax_attn.parity.judging.lane_run import ByTorch, LaneRun, Sides
from jax_attn.parity.lanes import LANES, Lane, lanes_named
from jax_attn.parity.recorded.files import TorchTrace
from jax_attn.parity.report import LeftOut, Report
from jax_attn.parity.runners.calls import Call
from jax_attn.parity.runners.weight_transfer import Carried, Weights, carry
from jax_attn.parity.tracing.module_pairs import Entry, ModuleNames, ModulePairs, flax_entries, pair_entries
from jax_attn.parity.tracing.recording import Recording
from jax_attn.parity.tracing.search import find
from jax_attn.parity.tracing.trace import Tracer
from jax_attn.weights.rules import Names, slots

Progress = Callable[[str, str], None]


def compare_with_trace(
    flax_module: nnx.Module,
    recorded: TorchTrace,
    *,
    lanes: Sequence[str] = LANES,
    names: Names = (),
    whole_model: bool = False,
    call_flax: Callable[..., Any] | None = None,
    title: str = "",
    progress: Progress = lambda lane, case: None,
    trace: bool = True,
    modules: ModuleNames | None = None,
    weights: Weights = "torch",
) -> Report:
    """`compare`, with what torch gave on another machine. The inputs are the recorded ones.

    The arguments are those of `compare_cases`; the weights are torch's, or None for Flax with its own.

    Raises:
        StateDictError: the recorded weights do not fit Flax.
        ValueError: a lane that does not exist, or Flax's weights, with which torch has not run.
    """
    started = time.perf_counter()
    chosen = lanes_named(lanes)
    carried = carry_recorded(flax_module, recorded, weights, names)
    sides = recorded_sides(carried, recorded, names, whole_model, call_flax)
    report = Report(title, parameters=_size(carried.flax))
    report.left_out += carried.told(chosen[0].name)
    judge_training(report, carried, names, chosen[0].name)
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
        report.trace = trace_against(flax_module, recorded, sides, modules, progress)
        report.first_divergence = find(report.trace)
        if report.first_divergence is None:
            reason = "every submodule that was compared agrees in float64"
            report.left_out.append(LeftOut("", "float64", "first divergence", reason))
    report.seconds = time.perf_counter() - started
    return report


def carry_recorded(flax: nnx.Module, recorded: TorchTrace, weights: Weights, names: Names) -> Carried:
    """Flax with torch's weights, or its own."""
    if weights == "flax":
        raise ValueError('weights="flax" needs torch; a recorded run has torch\'s weights ("torch", or None)')
    return carry(flax, recorded.module, weights, names)


def recorded_sides(
    carried: Carried,
    recorded: TorchTrace,
    names: Names,
    whole_model: bool,
    call_flax: Callable[..., Any] | None,
) -> Sides:
    """Flax, beside what is known of torch."""
    bound = tolerances.WHOLE_MODEL if whole_model else tolerances.MODULE
    quick = _size(carried.flax) <= SMALL
    return Sides(carried.flax, recorded.module, names, bound, call_flax, None, recorded.seed, quick)


def _size(flax: nnx.Module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(flax, nnx.Param)))


def trace_against(
    original: nnx.Module,
    recorded: TorchTrace,
    sides: Sides,
    modules: ModuleNames | None = None,
    progress: Progress = lambda lane, case: None,
) -> Any:
    """A `ModuleTrace` of every submodule, in float64."""
    tracer = RecordedTracer(original, recorded, sides, modules)
    return tracer.trace(recorded.case, progress=lambda what: progress("float64", f"tracing {what}"))


class RecordedLaneRun(LaneRun):
    """A lane in which torch has run before."""

    def __init__(self, sides: Sides, lane: Lane, recorded: TorchTrace):
        self.draws = recorded.draws[lane.name]
        super().__init__(sides, lane)

    def _ready_torch(self) -> None:
        """There is none."""

    def _run_torch(self, call: Call, seed: int) -> ByTorch:
        draw = self.draws[seed - self.sides.seed]  # where there are no more, the first verdict stands
        return ByTorch(call, draw.skeleton, draw.run, draw.truth, None)


class RecordedTracer(Tracer):
    """A tracer that reads torch's side."""

    def __init__(self, original: nnx.Module, recorded: TorchTrace, sides: Sides, modules: ModuleNames | None):
        super().__init__(
            sides.flax,
            recorded.module,
            *lanes_named(["float64"]),
            names=sides.names,
            modules=modules,
            bound=tolerances.MODULE,
            call_flax=sides.call_flax,
            seed=recorded.seed,
            original=original,
        )
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
