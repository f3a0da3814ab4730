"""What is compared of a case in a lane, tensor by tensor, and what is not."""

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from jax_attn.parity.judging.errors import size, widened
from jax_attn.parity.judging.judge import Pair
from jax_attn.parity.lanes import Lane
from jax_attn.parity.report import LeftOut, Result
from jax_attn.parity.runners.calls import Call
from jax_attn.parity.runners.run import Run, frozen_on_both
from jax_attn.parity.runners.trees import Skeleton, differentiated, leaves_of, names_of

IDLE = "no output depends on a parameter: every gradient of one is exactly zero on both sides"
FROZEN = "gradient: frozen in torch, and stopped in flax"
BIASED = "the running mean agrees: perhaps flax keeps the biased variance, torch the unbiased one"


class LanePairs:
    """The pairs of one case, and what was left out.

    Args:
        case: name of the case.
        lane: the lane.
        call: the call, for the names of its inputs.
        skeleton: the structure of torch's outputs.
        gradients: whether they were taken.
        frozen: keys of torch's parameters that ask for none.
    """

    def __init__(
        self,
        case: str,
        lane: Lane,
        call: Call,
        skeleton: Skeleton,
        gradients: bool = True,
        frozen: Collection[str] = (),
    ):
        self.gradients = gradients
        self.frozen = frozen
        self.case = case
        self.lane = lane
        self.call = call
        self.skeleton = skeleton
        self.pairs: list[Pair] = []
        self.left_out: list[LeftOut] = []

    def add(self, flax: Run, torch: Run, truth: Run) -> "LanePairs":
        """Pair the tensors of two runs, and those of torch in float64."""
        self._outputs(flax, torch, truth)
        if differentiated(self.skeleton):
            self._gradients(flax, torch, truth)
        else:
            self.leave_out("gradients", "no floating output to differentiate")
        if self.lane.exact:
            self._buffers(flax, torch)
        return self

    def leave_out(self, name: str, reason: str) -> None:
        """Tell what is not compared."""
        self.left_out.append(LeftOut(self.case, self.lane.name, name, reason))

    def leave_out_tiny(self, results: Sequence[Result]) -> None:
        """Tell which outputs passed for being smaller than the bound, which is absolute below 1."""
        for result, pair in zip(results, self.pairs, strict=True):
            largest = size(widened(pair.torch)) if result.ratio is None else np.inf
            if pair.kind == "output" and result.passed and result.error > 0 and largest <= result.bound:
                reason = (
                    f"all its values are below the bound {result.bound:.3g}: agreement says nothing there"
                )
                self.leave_out(pair.name, reason)

    def explained(self, results: Sequence[Result]) -> list[Result]:
        """The results, with a word on running variances that differ beside running means that agree."""
        agree = {result.name for result in results if result.kind == "buffer" and result.passed}
        return [
            replace(result, detail=f"{result.detail}; {BIASED}")
            if not result.passed and result.name.replace("running_var", "running_mean") in agree
            else result
            for result in results
        ]

    def _outputs(self, flax: Run, torch: Run, truth: Run) -> None:
        outputs = zip(flax.outputs, torch.outputs, truth.outputs, strict=True)
        leaves = leaves_of(self.skeleton)
        for name, leaf, arrays in zip(names_of(self.skeleton), leaves, outputs, strict=True):
            if not self.lane.exact and leaf.kind in ("integer", "boolean"):
                self.leave_out(name, f"{leaf.kind}: compared in float64 alone")
            elif all(array.size == 0 for array in arrays) and arrays[0].shape == arrays[1].shape:
                self.leave_out(name, "it holds no values")
            else:
                self.pairs.append(Pair("output", name, *arrays))

    def _gradients(self, flax: Run, torch: Run, truth: Run) -> None:
        for key in torch.gradients:
            if key not in flax.gradients:
                continue
            arrays = (flax.gradients[key], torch.gradients[key], truth.gradients[key])
            if key in self.frozen and frozen_on_both(*arrays[:2]):
                self.leave_out(key, FROZEN)
            else:
                self.pairs.append(Pair("gradient", key, *arrays))
        if not self.gradients:
            return
        by_parameter = [pair for pair in self.pairs if pair.kind == "gradient"]
        if by_parameter and not any(pair.flax.any() or pair.torch.any() for pair in by_parameter):
            self.leave_out("(warning)", IDLE)
        inputs = zip(flax.input_gradients, torch.input_gradients, truth.input_gradients, strict=True)
        for name, arrays in zip(self.call.floating_names, inputs, strict=True):
            self.pairs.append(Pair("input gradient", name, *arrays))

    def _buffers(self, flax: Run, torch: Run) -> None:
        """What the call left in the buffers that it changed, on either side."""
        ours, theirs = flax.buffers, torch.buffers
        if ours is None:
            return
        if theirs is None:
            for key in filter(ours.changed, ours.after):
                self.leave_out(key, "buffer: changed by flax; what torch does with it was not recorded")
            return
        for key in dict.fromkeys((*theirs.after, *ours.after)):
            changed = [side for side, found in (("torch", theirs), ("flax", ours)) if found.changed(key)]
            if changed and key in ours.after and key in theirs.after:
                self.pairs.append(Pair("buffer", key, ours.after[key], theirs.after[key], theirs.after[key]))
            elif changed:
                lacking = "flax" if changed == ["torch"] else "torch"
                self.leave_out(key, f"buffer: changed by {changed[0]}, no counterpart in {lacking}")
