"""Judges the steps of Flax that torch has led: each quantity by itself, in the order of cause."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from jax_attn.parity import tolerances
from jax_attn.parity.judging.errors import exact_error, size
from jax_attn.parity.report import LeftOut
from jax_attn.parity.text import joined
from jax_attn.parity.training.blame import blame
from jax_attn.parity.training.flax_runner import FlaxStep
from jax_attn.parity.training.measures import relative, update_error
from jax_attn.parity.training.optimizer_state import EITHER_WAY, torch_name
from jax_attn.parity.training.pairs import StepPairs
from jax_attn.parity.training.report import Deviation
from jax_attn.parity.training.torch_runner import TorchStep


class StepJudge:
    """Collects the deviations of every step, and what could not be compared.

    Args:
        lane: name of the lane.
        bound: of losses and gradients, as in `compare`.
        untrained: why torch does not train a key; "" if it does.
        clips: whether torch clips.
    """

    def __init__(self, lane: str, bound: float, untrained: Callable[[str], str], clips: bool):
        self.lane = lane
        self.bound = bound
        self.untrained = untrained
        self.clips = clips
        self.step = -1
        self.deviations: list[Deviation] = []
        self._tentative: list[Deviation] = []
        self._rates: list[Deviation] = []
        self._left_out: dict[str, str] = {}
        self._clipping_acted = False

    @property
    def passed(self) -> bool:
        """Whether everything agrees so far."""
        return all(deviation.passed for deviation in self.deviations)

    @property
    def left_out(self) -> list[LeftOut]:
        """What was not compared."""
        return [LeftOut("", self.lane, name, reason) for name, reason in self._left_out.items()]

    def judge(self, step: int, flax: FlaxStep, torch: TorchStep) -> list[Deviation]:
        """The deviations of a step."""
        self.step = step
        start = len(self.deviations)
        pairs = StepPairs(flax, torch, self.untrained, self._left_out)
        self._numbers("loss", flax.loss, torch.loss, exact_error, self.bound)
        scale = max(map(size, torch.gradients.values()), default=0.0)
        for key, *values, _ in pairs.gradients():
            self._add("gradient", key, exact_error(*values, scale), self.bound, *values)
        self._clipped(flax, torch)
        self._moments(flax, torch)
        self._rate(flax, torch)
        for key, *values, detail in pairs.updates():
            error = update_error(*values, torch.before[key])
            self._add("update", key, error, tolerances.UPDATE, *values, detail)
        for key, *values, detail in pairs.buffers():
            self._add("buffer", key, relative(*values), tolerances.UPDATE, *values, detail)
        found = self.deviations[start:]
        if not all(deviation.passed for deviation in found):
            self._explain(flax, torch)
        return self.deviations[start:]

    def finish(self) -> None:
        """Settle what one step cannot decide, once all have been judged."""
        failed = {d.step for d in self.deviations if d.quantity == "update" and not d.passed}
        # Moments that may be kept in either way count where an update differs as well.
        for deviation in self._tentative:
            if deviation.passed or failed:
                self.deviations.append(deviation)
            else:
                reason = "differs, though every update agrees: kept before or after the learning rate"
                self._left_out.setdefault(deviation.quantity, reason)
        if self.clips and not self._clipping_acted and self.step >= 0:
            self._left_out["clipping"] = never_acted(self.step + 1)
        # One factor in a step may be anything; one in each of them is the learning rate.
        if failed == {deviation.step for deviation in self._rates}:
            self.deviations += self._rates

    def _clipped(self, flax: FlaxStep, torch: TorchStep) -> None:
        clipped, given = torch.clipped, torch.gradients
        self._clipping_acted |= any(not np.array_equal(clipped[key], given[key]) for key in given)
        if flax.clipped is None:
            if self.clips:
                reason = "no clipping is given for flax; one within its chain shows in the updates"
                self._left_out.setdefault("clipped gradient", reason)
            return
        for key in torch.clipped:
            if key in flax.clipped:
                ours, theirs = flax.clipped[key], torch.clipped[key]
                self._add("clipped gradient", key, relative(ours, theirs), tolerances.UPDATE, ours, theirs)

    def _moments(self, flax: FlaxStep, torch: TorchStep) -> None:
        paired = set()
        for own_name, tensors in flax.moments.items():
            name = torch_name(own_name, torch.moments)
            if name is None:
                self._left_out.setdefault(own_name, "a moment of optax's without a counterpart in torch")
                continue
            for key, theirs in torch.moments[name].items():
                if key in tensors:
                    ours = tensors[key]
                    found = self._deviation(
                        name, key, relative(ours, theirs), tolerances.UPDATE, ours, theirs
                    )
                    (self._tentative if own_name in EITHER_WAY else self.deviations).append(found)
                    paired.add((name, key))
        for name, theirs in torch.moments.items():
            unpaired = [key for key in theirs if (name, key) not in paired]
            if len(unpaired) == len(theirs):
                self._left_out.setdefault(name, "a moment of torch's without a counterpart in optax's state")
            else:
                for key in unpaired:
                    self._left_out.setdefault(f"{name} of {key}", "optax's state has none")

    def _rate(self, flax: FlaxStep, torch: TorchStep) -> None:
        rates = set(torch.rates.values())
        if flax.rate is None or len(rates) != 1:
            why = "torch has several" if flax.rate is not None else "optax's state does not hold it"
            self._left_out.setdefault("learning rate", f"{why}; the updates are compared")
            return
        self._numbers("learning rate", flax.rate, rates.pop(), relative, tolerances.UPDATE)

    def _numbers(self, quantity: str, flax: float, torch: float, error: Any, bound: float) -> None:
        values = np.asarray(flax), np.asarray(torch)
        self._add(quantity, "", error(*values), bound, *values)

    def _explain(self, flax: FlaxStep, torch: TorchStep) -> None:
        """Name the clipping or the learning rate as what differs, where one factor explains all of it."""
        failed: dict[str, set[str]] = defaultdict(set)
        for deviation in [*self.deviations, *self._tentative]:
            if deviation.step == self.step and not deviation.passed:
                failed[deviation.quantity].add(deviation.parameter)
        found = blame(failed, flax, torch, self.lane, self.step)
        if found is not None:
            (self._rates if found.quantity == "learning rate" else self.deviations).append(found)

    def _add(self, quantity: str, key: str, error: float, bound: float, *values: Any) -> None:
        self.deviations.append(self._deviation(quantity, key, error, bound, *values))

    def _deviation(
        self, quantity: str, key: str, error: float, bound: float, ours: Any, theirs: Any, detail: str = ""
    ) -> Deviation:
        passed = bool(error <= bound)
        flax = torch = ""
        if not passed and ours is not None:
            index, flax, torch = _at_largest(ours, theirs)
            detail = joined(index, detail, by="; ")
        return Deviation(
            self.lane, self.step, quantity, key, error, bound, passed, flax, torch, "" if passed else detail
        )


def _at_largest(ours: np.ndarray, theirs: np.ndarray) -> tuple[str, str, str]:
    """Where the two are furthest apart, and both values."""
    if ours.shape != theirs.shape or not ours.size:
        return "", f"shape {ours.shape}", f"shape {theirs.shape}"
    with np.errstate(invalid="ignore"):
        index = np.unravel_index(int(np.argmax(np.abs(ours - theirs))), ours.shape)
    place = f"at [{', '.join(map(str, index))}]" if index else ""
    return place, f"{ours[index]:.10g}", f"{theirs[index]:.10g}"


def never_acted(steps: int) -> str:
    """What is said of a clipping that changed no gradient."""
    return f"torch's clipping never acted in these {steps} steps: not tested"
