"""One lane of a comparison: torch runs, Flax runs, and the two are judged, case by case."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from flax import nnx

from jax_attn.parity import bounds
from jax_attn.parity.calls import Call, cotangents
from jax_attn.parity.cases import Case
from jax_attn.parity.dropout import DropoutMismatch, Tape, record
from jax_attn.parity.flax_side import FlaxSide, fixed_dtype, has_dropout
from jax_attn.parity.judge import Pair, judge, pooled
from jax_attn.parity.lanes import Lane
from jax_attn.parity.report import LeftOut, Result
from jax_attn.parity.run import Run
from jax_attn.parity.torch_side import TorchSide
from jax_attn.parity.trees import Mismatch, Skeleton, leaves_of, names_of
from jax_attn.weights.rules import Names

Progress = Callable[[str, str], None]
Verdict = tuple[list[Result], list[LeftOut]]


@dataclass(frozen=True)
class Sides:
    """The two modules with the same weights, and how they are compared. See `compare_cases`."""

    flax: nnx.Module
    torch: Any
    names: Names
    bound: float
    call_flax: Callable[..., Any] | None
    call_torch: Callable[..., Any] | None
    seed: int
    quick: bool


@dataclass
class Attempt:
    """What one case has come to so far; `verdict` is set as soon as there is no more to be done."""

    case: Case
    call: Call | None = None
    skeleton: Skeleton | None = None
    torch: Run | None = None
    truth: Run | None = None
    tape: Tape | None = None
    flax: Run | None = None
    verdict: Verdict | None = None


class LaneRun:
    """Both sides, ready to run in one lane."""

    def __init__(self, sides: Sides, lane: Lane):
        self.sides = sides
        self.lane = lane
        self.fault = ""
        side = "torch"
        try:
            self.torch = TorchSide(sides.torch, lane, sides.call_torch)
            self.truth = None if lane.exact else TorchSide(sides.torch, lane, sides.call_torch, truth=True)
            side = "flax"
            self.flax = FlaxSide(sides.flax, lane, sides.names, sides.call_flax, sides.quick)
        except Exception as error:
            self.fault = _raised(side, error)
        self.hint = fixed_dtype(sides.flax, lane) if lane.exact else ""

    def attempt(self, case: Case, progress: Progress) -> Attempt:
        """Run torch on a case."""
        attempt = Attempt(case)
        if self.fault:
            attempt.verdict = self._failed(case, self.fault.partition(" ")[0], self.fault)
            return attempt
        progress(self.lane.name, case.name)
        try:
            attempt.call = Call.of(case).cast(self.lane)
            self._run_torch(attempt, self.sides.seed)
        except Exception as error:
            attempt.verdict = self._failed(case, "torch", _raised("torch", error))
            return attempt
        if attempt.tape is not None and not attempt.tape.masks and not has_dropout(self.sides.flax):
            reason = "nothing is dropped out: the module has no dropout, or all of it at rate 0"
            attempt.verdict = [], [LeftOut(case.name, self.lane.name, "(all)", reason)]
        return attempt

    def run_flax(self, attempt: Attempt) -> None:
        """Run Flax on the case of `attempt`."""
        if attempt.verdict is not None:
            return
        case = attempt.case
        try:
            self._run_flax(attempt, self.sides.seed)
        except Mismatch as mismatch:
            results = [
                Result(
                    case.name, self.lane.name, "output", name, np.nan, self.sides.bound, None, False, message
                )
                for name, message in mismatch.faults
            ]
            rest = LeftOut(case.name, self.lane.name, "(the rest)", "the outputs cannot be paired")
            attempt.verdict = results, [rest]
        except DropoutMismatch as mismatch:
            attempt.verdict = self._failed(case, "dropout", str(mismatch))
        except Exception as error:
            attempt.verdict = self._failed(case, "flax", _raised("flax", error))

    def verdict(self, attempt: Attempt) -> Verdict:
        """The results of the case, and what was left out."""
        if attempt.verdict is None:
            attempt.verdict = self._judge(attempt)
        results, left_out = attempt.verdict
        return [self._hinted(result) for result in results], left_out

    def _run_torch(self, attempt: Attempt, seed: int) -> None:
        attempt.tape = Tape(seed) if self.lane.training else None
        intercept = None if attempt.tape is None else record(attempt.tape)
        attempt.skeleton, attempt.torch = self.torch.run(attempt.call, seed, intercept)
        attempt.truth = None if self.truth is None else self.truth.run(attempt.call, seed)[1]

    def _run_flax(self, attempt: Attempt, seed: int) -> None:
        shapes = [leaf.shape for leaf in leaves_of(attempt.skeleton) if leaf.kind == "float"]
        weights = cotangents(shapes, self.lane, seed)
        attempt.flax = self.flax.run(attempt.call, attempt.skeleton, weights, attempt.tape)

    def _judge(self, attempt: Attempt) -> Verdict:
        pairs, left_out = _pairs(attempt, self.lane)
        if not any(pair.kind == "output" for pair in pairs):
            results, _ = self._failed(attempt.case, "torch", "the output holds no tensor to compare")
            return results, left_out
        results = judge(attempt.case.name, self.lane, pairs, self.sides.bound)
        noisy = [result for result in results if not result.passed and result.ratio is not None]
        if noisy:
            try:
                again = self._measured_again(attempt, pairs, noisy)
            except Exception:  # a side that runs on some inputs alone: the first draw stands
                again = {}
            results = [again.get((result.kind, result.name), result) for result in results]
        return results, left_out

    def _measured_again(
        self, attempt: Attempt, pairs: Sequence[Pair], noisy: Sequence[Result]
    ) -> dict[tuple[str, str], Result]:
        """The results that are above the bound, over more draws of the same rounding errors.

        A ratio of two rounding errors is a ratio of two random numbers: now and then torch happens to be far
        nearer to the truth than it usually is, and which tensor this befalls changes with the processor.
        """
        draws = [list(pairs)]
        for draw in range(1, bounds.DRAWS):
            other = Attempt(attempt.case, attempt.call.nearby(self.lane, draw))
            self._run_torch(other, self.sides.seed + draw)
            self._run_flax(other, self.sides.seed + draw)
            draws.append(_pairs(other, self.lane)[0])
        return {(result.kind, result.name): pooled(result, self.lane, draws) for result in noisy}

    def _failed(self, case: Case, name: str, detail: str) -> Verdict:
        result = Result(case.name, self.lane.name, "run", name, np.nan, self.sides.bound, None, False, detail)
        return [result], []

    def _hinted(self, result: Result) -> Result:
        if result.passed or not self.hint:
            return result
        return replace(result, detail="; ".join(part for part in (result.detail, self.hint) if part))


def _pairs(attempt: Attempt, lane: Lane) -> tuple[list[Pair], list[LeftOut]]:
    """What is compared of a case, and what is not."""
    flax, torch, truth = attempt.flax, attempt.torch, attempt.truth
    pairs: list[Pair] = []
    left_out: list[LeftOut] = []

    def leave_out(name: str, reason: str) -> None:
        left_out.append(LeftOut(attempt.case.name, lane.name, name, reason))

    leaves = leaves_of(attempt.skeleton)
    for index, (name, leaf) in enumerate(zip(names_of(attempt.skeleton), leaves, strict=True)):
        if truth and leaf.kind in ("integer", "boolean"):
            leave_out(name, f"{leaf.kind}: compared in float64 alone")
        else:
            own = None if truth is None else truth.outputs[index]
            pairs.append(Pair("output", name, flax.outputs[index], torch.outputs[index], own))
        if leaf.kind == "complex":
            leave_out(name, "complex: its gradients are not taken")
    if not any(leaf.kind == "float" for leaf in leaves):
        leave_out("gradients", "no floating output to differentiate")
        return pairs, left_out
    for key, gradient in torch.gradients.items():
        if key in flax.gradients:
            own = None if truth is None else truth.gradients[key]
            pairs.append(Pair("gradient", key, flax.gradients[key], gradient, own))
    for index, name in enumerate(attempt.call.floating_names):
        own = None if truth is None else truth.input_gradients[index]
        ours, theirs = flax.input_gradients[index], torch.input_gradients[index]
        pairs.append(Pair("input gradient", name, ours, theirs, own))
    return pairs, left_out


def _raised(side: str, error: Exception) -> str:
    message = " ".join(str(error).split())
    return f"{side} raised {type(error).__name__}: {message[:400]}"
