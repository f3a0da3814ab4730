"""Compare a Flax module with a torch module: outputs and every gradient, in every lane."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from flax import nnx

from jax_attn.parity.cases import Case
from jax_attn.parity.comparison import Caller, Comparison
from jax_attn.parity.judging.lane_run import LaneRun, Progress
from jax_attn.parity.lanes import LANES, Lane, lanes_named
from jax_attn.parity.report import LeftOut, Report, Result
from jax_attn.parity.runners.flax_runner import trains
from jax_attn.parity.runners.torch_keys import buffers_of, parameters_of
from jax_attn.parity.runners.weight_transfer import Carried, Weights
from jax_attn.parity.text import described, joined
from jax_attn.parity.tracing.module_pairs import ModuleNames
from jax_attn.parity.tracing.search import find
from jax_attn.parity.tracing.trace import Tracer
from jax_attn.parity.tracing.traced import ModuleTrace
from jax_attn.weights.rules import Names, slots

UNTRAINED = "a parameter in torch, in flax a plain nnx.Variable, which no optimizer of nnx.Param trains"


def compare(
    flax_module: nnx.Module,
    torch_module: Any,
    *inputs: Any,
    kwargs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Report:
    """Compare the two modules on one call: `compare_cases` with a single case, and with its options.

    >>> report = compare(nnx.Linear(3, 5, rngs=nnx.Rngs(0)), torch.nn.Linear(3, 5), x)  # doctest: +SKIP
    >>> report.assert_passed()  # doctest: +SKIP
    """
    return compare_cases(flax_module, torch_module, [Case("", inputs, dict(kwargs or {}))], **options)


def compare_cases(
    flax_module: nnx.Module,
    torch_module: Any,
    cases: Sequence[Case],
    *,
    lanes: Sequence[str] = LANES,
    weights: Weights = "torch",
    names: Names = (),
    whole_model: bool = False,
    call_flax: Caller | None = None,
    call_torch: Caller | None = None,
    seed: int = 0,
    gradients: bool = True,
    title: str = "",
    progress: Progress | None = None,
    trace: bool = True,
    modules: ModuleNames | None = None,
) -> Report:
    """Compare the two modules on several calls. Those of the same shapes share a compilation.

    Neither module is changed: each lane works on copies. All lanes but "dropout" run in evaluation mode.
    That one runs in training mode, whether or not anything is dropped out, unless the mode changes nothing.

    Compared are the outputs, the gradients of floating inputs and of all parameters (of what torch has frozen
    too, unless Flax stops it), and, in the lanes of float64, what the call leaves in buffers that it changes,
    such as running statistics. What is not compared is listed in `Report.left_out`.

    Args:
        flax_module: any NNX module.
        torch_module: any torch module.
        cases: the calls; arrays in NumPy, floats of any width (each lane casts them).
        lanes: some of `LANES`.
        weights: whose weights both sides get; None leaves each its own.
        names: pairs (pattern, replacement) that turn our keys into those of torch, as in `load_state_dict`. A
            module that `from_pretrained` built needs none beside transformers' own.
        whole_model: hold float64 to the bound of a whole model rather than of one module.
        call_flax: `call_flax(module, *args, **kwargs)` in place of `module(*args, **kwargs)`.
        call_torch: the same for torch.
        seed: of the cotangents that gradients are taken with, and of the dropout masks.
        gradients: whether they are compared; without, the report says so in its first line.
        title: what the report is called.
        progress: called with (lane, case) before each comparison.
        trace: if anything fails, trace the first case that does, and fill in `Report.first_divergence`. It
            takes a few more runs, of every submodule by itself.
        modules: submodules that the trace shall pair; see `trace_modules`.

    Raises:
        StateDictError: the weights of one side do not fit the other.
        ValueError: a lane that does not exist.
    """
    started = time.perf_counter()
    chosen = lanes_named(lanes)
    given = Comparison(
        flax_module,
        torch_module,
        tuple(cases),
        weights,
        names,
        modules,
        call_flax,
        call_torch,
        seed,
        whole_model,
        gradients,
    )
    pair, carried = given.carry()
    progress = progress or (lambda lane, case: None)
    report = begun(title, pair, carried, chosen[0].name)
    report.compared = given
    if not gradients:
        report.remarks.append("without gradients")
    # One lane and one case at a time: what is scarce with a large model is memory.
    for lane in chosen:
        judge_lane(report, LaneRun(pair, lane), cases, carried, progress)
    _explain_noise(report)
    if trace and not report.passed:
        try:
            _trace_failure(report, pair, progress)
        except Exception as error:  # the verdict stands without it
            if modules:
                raise
            reason = f"the trace raised {described(error, 200)}"
            report.left_out.append(LeftOut("", chosen[0].name, "first divergence", reason))
    report.seconds = time.perf_counter() - started
    return report


def begun(title: str, pair: Comparison, carried: Carried, lane: str) -> Report:
    """Return the report of two modules that have not run: which weights are not compared, and which differ."""
    report = Report(title, parameters=pair.parameters)
    report.left_out += carried.left_out_in(lane)
    judge_training(report, carried, lane)
    return report


def judge_lane(
    report: Report, run: LaneRun, cases: Sequence[Case], carried: Carried, progress: Progress
) -> None:
    """Run both sides in a lane, and add the results to the report."""
    for case in cases:
        if case.runs_in(run.lane.name):
            results, left_out = run.verdict(run.attempt(case, progress))
            report.results += results
            report.left_out += left_out
    report.left_out += run.notes()
    if run.sides.gradients:
        require_gradients(report, carried, run.lane)


def keep_trace(report: Report, trace: ModuleTrace) -> None:
    """Add a trace to the report, and the first divergence in it."""
    report.trace, report.first_divergence = trace, find(trace)
    if report.first_divergence is None:
        reason = f"every submodule that was compared agrees in {trace.lane}"
        report.left_out.append(LeftOut(trace.case, trace.lane, "first divergence", reason))


def _explain_noise(report: Report) -> None:
    """Where float64 agrees and another lane does not, say what that means."""
    exact = [result.passed for result in report.results if result.lane == "float64"]
    if exact and all(exact):
        word = "float64 agrees: the same mathematics, computed less exactly than torch does"
        report.results = [
            result
            if result.passed or result.ratio is None
            else replace(result, detail=joined(result.detail, word, by="; "))
            for result in report.results
        ]


def _trace_failure(report: Report, pair: Comparison, progress: Progress) -> None:
    """Trace the first case that failed in an exact lane; else the worst that failed, in float64."""
    exact = [
        result for result in report.results if not result.passed and result.lane in ("float64", "dropout")
    ]
    failed = next(iter(exact or report.failures), None)
    case = next((case for case in pair.cases if failed is not None and case.name == failed.case), None)
    if failed is None or case is None:
        return
    lane = lanes_named([failed.lane if exact else "float64"])[0]
    what = f"{case.name}: " if case.name else ""
    trace = Tracer(pair, lane).trace(case, progress=lambda step: progress(lane.name, f"{what}tracing {step}"))
    keep_trace(report, trace)


def require_gradients(report: Report, carried: Carried, lane: Lane) -> None:
    """Fail a lane in which outputs were compared and not one gradient of a parameter, though a side trains."""
    results = report.select(lane.name)
    kinds = {result.kind for result in results if result.passed or result.kind == "gradient"}
    if "output" not in kinds or "gradient" in kinds:
        return
    theirs = [key for key, parameter in parameters_of(carried.torch).items() if parameter.requires_grad]
    ours = [
        place.key
        for slot in slots(carried.flax, carried.names)
        if trains(slot) and isinstance(slot.variable, nnx.Param)
        for place in slot.places
    ]
    if theirs or ours:
        trained = " and ".join(
            f"{side} trains {keys[0]}" + (f" and {len(keys) - 1} more" if len(keys) > 1 else "")
            for side, keys in (("torch", theirs), ("flax", ours))
            if keys
        )
        reason = f"no gradient of a parameter was compared in {lane.name}, though {trained}"
        way_out = "pair them with names=[(pattern, replacement)], or pass gradients=False"
        report.remarks.append(reason)
        report.results.append(
            Result("", lane.name, "gradient", "(all)", np.nan, 0.0, None, False, f"{reason}: {way_out}")
        )


def judge_training(report: Report, carried: Carried, lane: str) -> None:
    """A weight that learns on one side and is a constant on the other is a difference, whatever its value."""
    ours = {place.key: slot for slot in slots(carried.flax, carried.names) for place in slot.places}
    parameters, buffers = parameters_of(carried.torch), buffers_of(carried.torch)

    def fail(key: str, detail: str) -> None:
        report.results.append(Result("", lane, "gradient", key, np.nan, 0.0, None, False, detail))

    for key, parameter in parameters.items():
        if key in carried.left_out:
            continue
        if key not in ours:
            report.left_out.append(LeftOut("", lane, key, "gradient: no counterpart in flax"))
        elif not trains(ours[key]) and parameter.requires_grad:
            fail(key, "a parameter in torch, a constant in flax")
        elif type(ours[key].variable) is nnx.Variable and parameter.requires_grad:
            fail(key, UNTRAINED)
        elif not trains(ours[key]):
            report.left_out.append(LeftOut("", lane, key, "gradient: a constant on both sides"))
    for key, slot in ours.items():
        if key in buffers and trains(slot) and isinstance(slot.variable, nnx.Param):
            fail(key, "a buffer in torch, a parameter in flax")
        elif trains(slot) and not {key} & (parameters.keys() | buffers.keys() | carried.left_out.keys()):
            report.left_out.append(LeftOut("", lane, key, "gradient: no counterpart in torch"))
