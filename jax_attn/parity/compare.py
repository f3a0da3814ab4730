"""Compare a Flax module with a torch module: outputs and every gradient, in every lane."""

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from flax import nnx

from jax_attn.parity import bounds
from jax_attn.parity.calls import Call, cotangents
from jax_attn.parity.cases import Case
from jax_attn.parity.dropout import DropoutMismatch, Tape, record
from jax_attn.parity.flax_side import FlaxSide, fixed_dtype, has_dropout, trains
from jax_attn.parity.judge import Pair, judge
from jax_attn.parity.lanes import LANES, Lane, lanes_named
from jax_attn.parity.report import LeftOut, Report, Result
from jax_attn.parity.run import Run
from jax_attn.parity.torch_side import TorchSide
from jax_attn.parity.trees import Mismatch, Skeleton, leaves_of, names_of
from jax_attn.weights.rules import Names, slots
from jax_attn.weights.state_dict import load_state_dict, state_dict

Weights = Literal["torch", "flax"] | None
Caller = Callable[..., Any]


def compare(
    flax_module: nnx.Module,
    torch_module: Any,
    *inputs: Any,
    kwargs: Mapping[str, Any] | None = None,
    lanes: Sequence[str] = LANES,
    weights: Weights = "torch",
    names: Names = (),
    whole_model: bool = False,
    call_flax: Caller | None = None,
    call_torch: Caller | None = None,
    seed: int = 0,
    title: str = "",
) -> Report:
    """Compare the two modules on one call: `compare_cases` with a single case.

    >>> report = compare(nnx.Linear(3, 5, rngs=nnx.Rngs(0)), torch.nn.Linear(3, 5), x)  # doctest: +SKIP
    >>> report.assert_passed()  # doctest: +SKIP
    """
    case = Case("", inputs, dict(kwargs or {}))
    return compare_cases(
        flax_module,
        torch_module,
        [case],
        lanes=lanes,
        weights=weights,
        names=names,
        whole_model=whole_model,
        call_flax=call_flax,
        call_torch=call_torch,
        seed=seed,
        title=title,
    )


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
    title: str = "",
    progress: Callable[[str, str], None] | None = None,
) -> Report:
    """Compare the two modules on several calls. Those of the same shapes share a compilation.

    Neither module is changed: each lane works on copies. All lanes but "dropout" run in evaluation mode.

    Args:
        flax_module: any NNX module.
        torch_module: any torch module.
        cases: the calls; arrays in NumPy, floats of any width (each lane casts them).
        lanes: some of `LANES`.
        weights: whose weights both sides get; None leaves each its own.
        names: pairs (pattern, replacement) that turn our keys into those of torch, as in `load_state_dict`.
        whole_model: hold float64 to the bound of a whole model rather than of one module.
        call_flax: `call_flax(module, *args, **kwargs)` in place of `module(*args, **kwargs)`.
        call_torch: the same for torch.
        seed: of the cotangents that gradients are taken with, and of the dropout masks.
        title: what the report is called.
        progress: called with (lane, case) before each comparison.

    Raises:
        StateDictError: the weights of one side do not fit the other.
        ValueError: a lane that does not exist.
    """
    started = time.perf_counter()
    chosen = lanes_named(lanes)
    flax_copy, torch_copy = _carry(flax_module, torch_module, weights, names)
    report = Report(title)
    _judge_training(report, flax_copy, torch_copy, names, chosen[0].name)
    comparison = _Comparison(flax_copy, torch_copy, names, whole_model, call_flax, call_torch, seed)
    for lane in chosen:
        comparison.add(report, lane, cases, progress or (lambda lane, case: None))
    report.seconds = time.perf_counter() - started
    return report


class _Comparison:
    """Everything that does not change from lane to lane."""

    def __init__(
        self,
        flax: nnx.Module,
        torch: Any,
        names: Names,
        whole_model: bool,
        call_flax: Caller | None,
        call_torch: Caller | None,
        seed: int,
    ):
        self.flax = flax
        self.torch = torch
        self.names = names
        self.bound = bounds.WHOLE_MODEL if whole_model else bounds.MODULE
        self.quick = not whole_model
        self.call_flax = call_flax
        self.call_torch = call_torch
        self.seed = seed

    def add(
        self, report: Report, lane: Lane, cases: Sequence[Case], progress: Callable[[str, str], None]
    ) -> None:
        """Run every case in `lane` and add what comes of it to `report`."""
        try:
            side = "torch"
            torch = TorchSide(self.torch, lane, self.call_torch, seed=self.seed)
            truth = None
            if not lane.exact:
                truth = TorchSide(self.torch, lane, self.call_torch, truth=True, seed=self.seed)
            side = "flax"
            flax = FlaxSide(self.flax, lane, self.names, self.call_flax, self.quick)
        except Exception as error:
            report.results.append(self._failed("", lane, side, _raised(side, error)))
            return
        hint = fixed_dtype(self.flax, lane) if lane.exact else ""
        for case in cases:
            progress(lane.name, case.name)
            results, left_out = self._case(case, lane, torch, truth, flax)
            report.results += [_hinted(result, hint) for result in results]
            report.left_out += left_out

    def _case(
        self, case: Case, lane: Lane, torch: TorchSide, truth: TorchSide | None, flax: FlaxSide
    ) -> tuple[list[Result], list[LeftOut]]:
        tape = Tape(self.seed) if lane.training else None
        side = "torch"
        try:
            call = Call.of(case).cast(lane)
            skeleton, by_torch = torch.run(call, record(tape) if tape else None)
            by_truth = truth.run(call)[1] if truth else None
            if tape and not tape.masks and not has_dropout(self.flax):
                return [], [LeftOut(case.name, lane.name, "(all)", "the module has no dropout")]
            side = "flax"
            floats = [leaf.shape for leaf in leaves_of(skeleton) if leaf.kind == "float"]
            by_flax = flax.run(call, skeleton, cotangents(floats, lane, self.seed), tape)
        except Mismatch as mismatch:
            results = [
                Result(case.name, lane.name, "output", name, np.nan, self.bound, None, False, message)
                for name, message in mismatch.faults
            ]
            return results, [LeftOut(case.name, lane.name, "(the rest)", "the outputs cannot be paired")]
        except DropoutMismatch as mismatch:
            return [self._failed(case.name, lane, "dropout", str(mismatch))], []
        except Exception as error:
            return [self._failed(case.name, lane, side, _raised(side, error))], []
        pairs, left_out = _pairs(case, lane, call, skeleton, by_flax, by_torch, by_truth)
        if not any(pair.kind == "output" for pair in pairs):
            return [self._failed(case.name, lane, "torch", "the output holds no tensor to compare")], left_out
        return judge(case.name, lane, pairs, self.bound), left_out

    def _failed(self, case: str, lane: Lane, name: str, detail: str) -> Result:
        return Result(case, lane.name, "run", name, np.nan, self.bound, None, False, detail)


def _pairs(
    case: Case,
    lane: Lane,
    call: Call,
    skeleton: Skeleton,
    flax: Run,
    torch: Run,
    truth: Run | None,
) -> tuple[list[Pair], list[LeftOut]]:
    """What is compared of a case, and what is not."""
    pairs: list[Pair] = []
    left_out: list[LeftOut] = []
    leaves = leaves_of(skeleton)
    for index, (name, leaf) in enumerate(zip(names_of(skeleton), leaves, strict=True)):
        if truth and leaf.kind in ("integer", "boolean"):
            left_out.append(LeftOut(case.name, lane.name, name, f"{leaf.kind}: compared in float64 alone"))
        else:
            own = None if truth is None else truth.outputs[index]
            pairs.append(Pair("output", name, flax.outputs[index], torch.outputs[index], own))
        if leaf.kind == "complex":
            left_out.append(LeftOut(case.name, lane.name, name, "complex: its gradients are not taken"))
    if not any(leaf.kind == "float" for leaf in leaves):
        left_out.append(LeftOut(case.name, lane.name, "gradients", "no floating output to differentiate"))
        return pairs, left_out
    for key, gradient in torch.gradients.items():
        if key in flax.gradients:
            own = None if truth is None else truth.gradients[key]
            pairs.append(Pair("gradient", key, flax.gradients[key], gradient, own))
    for index, name in enumerate(call.floating_names):
        own = None if truth is None else truth.input_gradients[index]
        pairs.append(
            Pair("input gradient", name, flax.input_gradients[index], torch.input_gradients[index], own)
        )
    return pairs, left_out


def _carry(flax: nnx.Module, torch: Any, weights: Weights, names: Names) -> tuple[nnx.Module, Any]:
    """The two modules with the same weights; the one that receives them is a copy."""
    if weights is None:
        return flax, torch
    if weights not in ("torch", "flax"):
        raise ValueError(f'weights must be "torch", "flax" or None, got {weights!r}')
    loaded = load_state_dict(nnx.clone(flax, graph=True), torch.state_dict(), names=names)
    if weights == "torch":
        return loaded, torch
    torch = copy.deepcopy(torch)
    torch.load_state_dict({**torch.state_dict(), **state_dict(flax, names=names)})
    return flax, torch


def _judge_training(report: Report, flax: nnx.Module, torch: Any, names: Names, lane: str) -> None:
    """A weight that learns on one side and is a constant on the other is a difference, whatever its value."""
    trained = {place.key: trains(slot) for slot in slots(flax, names) for place in slot.places}
    parameters = dict(torch.named_parameters(remove_duplicate=False))
    buffers = dict(torch.named_buffers(remove_duplicate=False))

    def fail(key: str, detail: str) -> None:
        report.results.append(Result("", lane, "gradient", key, np.nan, 0.0, None, False, detail))

    for key, parameter in parameters.items():
        if key not in trained:
            report.left_out.append(LeftOut("", lane, key, "gradient: no counterpart in flax"))
        elif not trained[key] and parameter.requires_grad:
            fail(key, "a parameter in torch, a constant in flax")
        elif not trained[key]:
            report.left_out.append(LeftOut("", lane, key, "gradient: a constant on both sides"))
    for key, trains_in_flax in trained.items():
        if trains_in_flax and key in buffers:
            fail(key, "a buffer in torch, a parameter in flax")
        elif trains_in_flax and key not in parameters:
            report.left_out.append(LeftOut("", lane, key, "gradient: no counterpart in torch"))


def _raised(side: str, error: Exception) -> str:
    message = " ".join(str(error).split())
    return f"{side} raised {type(error).__name__}: {message[:400]}"


def _hinted(result: Result, hint: str) -> Result:
    if result.passed or not hint:
        return result
    return replace(result, detail="; ".join(part for part in (result.detail, hint) if part))
