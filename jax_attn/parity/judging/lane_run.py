"""One lane of a comparison: torch runs, Flax runs, and the two are judged, case by case."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from jax_attn.parity import tolerances
from jax_attn.parity.cases import Case
from jax_attn.parity.comparison import Comparison
from jax_attn.parity.judging.attempt import Attempt, ByTorch, RunsOnSome, Verdict
from jax_attn.parity.judging.judge import Pair, decided_by_few, judge, measure, pooled
from jax_attn.parity.judging.lane_pairs import LanePairs
from jax_attn.parity.judging.unevenness import UNSTEADY, is_uneven, unsteady
from jax_attn.parity.lanes import Lane
from jax_attn.parity.report import LeftOut, Result
from jax_attn.parity.runners.calls import Call, cotangents
from jax_attn.parity.runners.dropout import DropoutMismatch, Tape
from jax_attn.parity.runners.dropout_torch import UNIFORM
from jax_attn.parity.runners.flax_modes import depends_on_mode, fixed_dtype
from jax_attn.parity.runners.flax_runner import FlaxSide
from jax_attn.parity.runners.nearby import flax_weights_moved, torch_weights_moved
from jax_attn.parity.runners.places import Places, lifted
from jax_attn.parity.runners.run import Run
from jax_attn.parity.runners.torch_casts import kept_keys
from jax_attn.parity.runners.torch_runner import TorchSide
from jax_attn.parity.runners.trees import Mismatch, differentiated
from jax_attn.parity.runners.widths import MISSING
from jax_attn.parity.text import described, joined

Progress = Callable[[str, str], None]
Settled = dict[tuple[str, str], Result]
T = TypeVar("T")


def torch_sides(sides: Comparison, module: Any, lane: Lane) -> tuple[TorchSide, TorchSide | None]:
    """A torch module in a lane, and for the truth where that is another."""
    side = partial(
        TorchSide, module, lane, sides.call_torch, gradients=sides.gradients, constants=sides.constants
    )
    return side(), None if lane.exact else side(truth=True)


class LaneRun:
    """Both sides, ready to run in one lane."""

    def __init__(self, sides: Comparison, lane: Lane):
        self.sides = sides
        self.lane = lane
        self.failure = ""
        side = "torch"
        try:
            self._ready_torch()
            side = "flax"
            self.flax = FlaxSide(
                sides, lane, kept_keys(sides.torch, lane), given=sides.torch.state_dict().keys()
            )
        except Exception as error:
            self.failure = f"{side} raised {described(error)}"
        self.moded = lane.training and depends_on_mode(sides.flax)
        self.hint = fixed_dtype(sides.flax, lane) if lane.exact else ""

    def _ready_torch(self) -> None:
        """Copies of the module, in the lane's dtype and for the truth."""
        sides, lane = self.sides, self.lane
        self.torch, self.truth = torch_sides(sides, sides.torch, lane)

    def attempt(self, case: Case, progress: Progress = lambda lane, case: None) -> Attempt:
        """Run torch on a case, then Flax."""
        attempt = self._attempt_torch(case, progress)
        self._attempt_flax(attempt)
        return attempt

    def _attempt_torch(self, case: Case, progress: Progress) -> Attempt:
        attempt = Attempt(case)
        if self.failure:
            attempt.verdict = self._failed(case, self.failure.partition(" ")[0], self.failure)
            return attempt
        progress(self.lane.name, case.name)
        call = Call.of(case).cast(self.lane)
        try:
            found = attempt.torch = self._run_torch(call, self.sides.seed)
        except Exception as error:
            reason = f"torch raised {described(error)}"
            attempt.verdict = self._without(case, call, reason) or self._failed(case, "torch", reason)
            return attempt
        if found.tape is not None and (reason := self._why_not(found, found.tape)):
            attempt.verdict = [], [LeftOut(case.name, self.lane.name, "(all)", reason)]
        return attempt

    def _without(self, case: Case, call: Call, reason: str) -> Verdict | None:
        """The verdict where torch raised for want of 16 bits alone, as its FFT does: that tells nothing of Flax."""
        if self.truth is None or self.lane.dtype == "float32":
            return None
        try:
            self.truth.run(call, self.sides.seed)
        except Exception:
            return None
        reason = f"{reason}, and runs in float64"
        return [], [LeftOut(case.name, self.lane.name, "(all)", reason)]

    def _why_not(self, found: ByTorch, tape: Tape) -> str:
        """Why a run in training mode is not worth comparing, or cannot be; empty if it is."""
        if tape.elsewhere and not self._drawn_in_vain(found, tape):
            drew = ", ".join(tape.elsewhere)
            return f"torch draws random numbers outside of dropout ({drew}), which flax cannot be given"
        if tape.masks or self.moded:
            return ""
        same = self.torch.does_the_same_in_evaluation(found.call, self.sides.seed, found.run)
        return (
            "training mode changes nothing: torch gives the very same, and nothing in flax has modes"
            if same
            else ""
        )

    def _drawn_in_vain(self, found: ByTorch, tape: Tape) -> bool:
        """Whether what else torch drew changes nothing, as for layers that are skipped at a rate of 0."""
        if not UNIFORM.issuperset(tape.elsewhere):
            return False
        for extreme in (0.0, 1 - 2.0**-24):  # on either side of any rate
            again = Tape(tape.seed, extreme)
            _, run = self.torch.run(found.call, self.sides.seed, again)
            if again.elsewhere or not run.equals(found.run):
                return False
        return True

    def _attempt_flax(self, attempt: Attempt) -> None:
        if attempt.verdict is not None or attempt.torch is None:
            return
        case = attempt.case
        try:
            attempt.flax = self._run_flax(attempt.torch, self.sides.seed)
        except Mismatch as mismatch:
            results = [
                Result(
                    case.name, self.lane.name, "output", name, np.nan, self.sides.bound, None, False, message
                )
                for name, message in mismatch.differences
            ]
            rest = LeftOut(case.name, self.lane.name, "(the rest)", "the outputs cannot be paired")
            attempt.verdict = results, [rest]
        except DropoutMismatch as mismatch:
            attempt.verdict = self._failed(case, "dropout", str(mismatch))
        except Exception as error:
            attempt.verdict = self._failed(case, "flax", f"flax raised {described(error)}")

    def verdict(self, attempt: Attempt) -> Verdict:
        """The results of the case, and what was left out."""
        if attempt.verdict is None and attempt.torch is not None and attempt.flax is not None:
            attempt.verdict = self._judge(attempt.case, attempt.torch, attempt.flax)
        results, left_out = attempt.verdict or self._failed(attempt.case, "flax", "flax was not run")
        results, left_out = self._in_order(attempt) or (results, left_out)
        left_out = [*left_out, *self._narrower(attempt)]
        return [self._hinted(result) for result in results], [*left_out, *self._lifted(attempt.case)]

    def _narrower(self, attempt: Attempt) -> list[LeftOut]:
        """What torch's own casts compute in float32, and Flax does not."""
        torch, places = attempt.torch, None if self.failure else self._torch_places()
        if self.lane.dtype != "bfloat16" or torch is None or attempt.flax is None or not places:
            return []
        weights = cotangents(differentiated(torch.skeleton), self.lane, self.sides.seed)
        flax = self.flax.widths(torch.call, torch.skeleton, weights)
        names = self.torch.widths(torch.call).narrower_in(flax, self.lane.dtype)
        reason = MISSING.format(dtype=self.lane.dtype)
        return [LeftOut(attempt.case.name, self.lane.name, f"(warning) {name}", reason) for name in names]

    def _torch_places(self) -> Places | None:
        """Where float32 was lifted on torch's side."""
        return (self.torch if self.truth is None else self.truth).places

    def _in_order(self, attempt: Attempt) -> Verdict | None:
        """The verdict where the masks follow the order of the calls, if all of it passes.

        Names may be crossed, as those of two dropouts of one rate. No masks but the right ones can agree.
        """
        torch = attempt.torch
        failed = attempt.verdict is not None and not all(result.passed for result in attempt.verdict[0])
        if not failed or torch is None or torch.tape is None or len(torch.tape.masks) < 2:
            return None
        again = Attempt(attempt.case, replace(torch, tape=torch.tape.in_order()))
        self._attempt_flax(again)
        if again.verdict is None and again.torch is not None and again.flax is not None:
            results, left_out = self._judge(again.case, again.torch, again.flax)
            return (results, left_out) if all(result.passed for result in results) else None
        return None

    def _lifted(self, case: Case) -> list[LeftOut]:
        """What was computed in float64 though the code asks for float32, in this case or another."""
        if self.failure:
            return []
        entry = lifted(self.flax.places, self._torch_places())
        return [LeftOut(case.name, self.lane.name, *entry)] if entry else []

    def notes(self) -> list[LeftOut]:
        """How torch was run, where it is not as it is."""
        sides = [side for side in (getattr(self, "torch", None), getattr(self, "truth", None)) if side]
        notes = dict.fromkeys(note for side in sides for note in side.notes())
        return [LeftOut("", self.lane.name, name, reason) for name, reason in notes]

    def _run_torch(self, call: Call, seed: int) -> ByTorch:
        tape = Tape(seed) if self.lane.training else None
        skeleton, run = self.torch.run(call, seed, tape)
        truth = run if self.truth is None else self.truth.run(call, seed)[1]
        return ByTorch(call, skeleton, run, truth, tape)

    def _run_flax(self, torch: ByTorch, seed: int) -> Run:
        weights = cotangents(differentiated(torch.skeleton), self.lane, seed)
        return self.flax.run(torch.call, torch.skeleton, weights, torch.tape)

    def _torch_nearby(self, first: ByTorch, draw: int, seed: int) -> ByTorch:
        """Torch's run moved by rounding errors: of the inputs and, where they move nothing, of the weights."""
        call = first.call
        sides = [side for side in (self.torch, self.truth) if side]
        moved = nullcontext() if call.moves else torch_weights_moved(sides, self.flax, draw)
        nearby = call.nearby(self.lane, draw)
        with moved:
            found = self._once(partial(self._run_torch, nearby, seed))
        if found.skeleton != first.skeleton:
            raise RunsOnSome("torch gives tensors of other shapes")
        return found

    def _flax_nearby(self, call: Call, torch: ByTorch, draw: int, seed: int) -> Run:
        """Flax's run, moved as torch's was from `call`."""
        moved = nullcontext() if call.moves else flax_weights_moved(self.flax, self.torch, draw)
        with moved:
            return self._once(partial(self._run_flax, torch, seed))

    def _once(self, run: Callable[[], T]) -> T:
        """The run of a side on numbers that nobody gave: it may take some alone."""
        try:
            return run()
        except Exception as error:
            raise RunsOnSome(described(error, 120)) from error

    def _judge(self, case: Case, torch: ByTorch, flax: Run) -> Verdict:
        found = self.paired(case, torch, flax)
        pairs = found.pairs
        if not any(pair.kind == "output" for pair in pairs):
            if found.left_out and not self.lane.exact:  # integers alone, which float64 compares
                return [], found.left_out
            results, _ = self._failed(case, "torch", "the output holds nothing to compare")
            return results, found.left_out
        results = judge(case.name, self.lane, pairs, self.sides.bound)
        again = self._once_more(case, torch, flax, pairs, results)
        results = [again.get((result.kind, result.name), result) for result in results]
        found.leave_out_tiny(results)
        return found.explained(results), found.left_out

    def paired(self, case: Case, torch: ByTorch, flax: Run) -> LanePairs:
        """What is compared of a case, tensor by tensor."""
        sides = self.sides
        pairs = LanePairs(case.name, self.lane, torch.call, torch.skeleton, sides.gradients, sides.frozen)
        return pairs.add(flax, torch.run, torch.truth)

    def _once_more(
        self, case: Case, torch: ByTorch, flax: Run, pairs: Sequence[Pair], results: Sequence[Result]
    ) -> Settled:
        """Other results for those that rounding errors may have failed."""
        failed = [result for result in results if not result.passed]
        noisy = [result for result in failed if result.ratio is not None]
        uneven = [result for result in failed if self.lane.exact and is_uneven(result, pairs)]
        try:
            if noisy:
                return self._measured_again(case, torch, pairs, noisy)
            return self._unsteady(case, torch, flax, pairs, uneven) if uneven else {}
        except RunsOnSome as error:
            once = f"measured once: nearby, {error}"
            return {
                (result.kind, result.name): replace(result, detail=joined(result.detail, once, by="; "))
                for result in noisy or uneven
            }

    def _unsteady(
        self, case: Case, torch: ByTorch, flax: Run, pairs: Sequence[Pair], uneven: Sequence[Result]
    ) -> Settled:
        """Those of the results that are as near to torch as torch is to itself with other rounding errors."""
        moved = []
        for draw in range(1, min(tolerances.DRAWS) + 1):
            other = self._torch_nearby(torch, draw, self.sides.seed)
            moved.append(self.paired(case, other, flax).pairs)
        return {
            (result.kind, result.name): replace(result, error=error, passed=True, detail=UNSTEADY)
            for result in uneven
            if (error := unsteady(result, pairs, moved)) is not None
        }

    def _measured_again(
        self, case: Case, first: ByTorch, pairs: Sequence[Pair], noisy: Sequence[Result]
    ) -> Settled:
        """The results that are above the bound, over more draws of the same rounding errors.

        A ratio of two rounding errors is a ratio of two random numbers: now and then torch happens to be far
        nearer to the truth than it usually is, and which tensor this befalls changes with the processor. Where
        few of the draws decide, more are made.
        """
        draws = {result: [measure(result, self.lane, pairs, pairs)] for result in noisy}
        settled: Settled = {}
        for draw in range(1, tolerances.RARE_DRAWS):
            seed = self.sides.seed + draw
            try:
                torch = self._torch_nearby(first, draw, seed)
                flax = self._flax_nearby(first.call, torch, draw, seed)
            except RunsOnSome:
                if not settled:
                    raise
                break
            others = self.paired(case, torch, flax).pairs
            for result, measured in draws.items():
                measured.append(measure(result, self.lane, others, pairs))
            if draw + 1 in (*tolerances.DRAWS, tolerances.RARE_DRAWS):
                settled = {(r.kind, r.name): pooled(r, measured) for r, measured in draws.items()}
                failed = [r for r in noisy if not settled[r.kind, r.name].passed]
                enough = draw + 1 >= max(tolerances.DRAWS)
                if not failed or (enough and not all(decided_by_few(r, draws[r]) for r in failed)):
                    break
        return settled

    def _failed(self, case: Case, name: str, detail: str) -> Verdict:
        result = Result(case.name, self.lane.name, "run", name, np.nan, self.sides.bound, None, False, detail)
        return [result], []

    def _hinted(self, result: Result) -> Result:
        if result.passed or not self.hint:
            return result
        return replace(result, detail=joined(result.detail, self.hint, by="; "))
