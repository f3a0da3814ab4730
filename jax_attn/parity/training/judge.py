"""Judges the steps of Flax that torch has led: each quantity by itself, in the order of cause."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np

from jax_attn.parity import tolerances
from jax_attn.parity.judging.errors import exact_error
from jax_attn.parity.report import LeftOut
from jax_attn.parity.training.blame import blame
from jax_attn.parity.training.flax_runner import FlaxStep
from jax_attn.parity.training.measures import largest, relative, update_error
from jax_attn.parity.training.optimizer_state import EITHER_WAY, torch_name
from jax_attn.parity.training.report import Deviation
from jax_attn.parity.training.torch_runner import TorchStep

# A word on running variances that differ.
VARIANCE = "nnx.BatchNorm keeps the biased variance, torch the unbiased one"


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
        self._loss(flax, torch)
        self._gradients(flax, torch)
        self._clipped(flax, torch)
        self._moments(flax, torch)
        self._rate(flax, torch)
        self._updates(flax, torch)
        self._buffers(flax, torch)
        found = self.deviations[start:]
        if not all(deviation.passed for deviation in found):
            self._explain(flax, torch)
        return self.deviations[start:]

    def finish(self) -> None:
        """Settle what one step cannot tell, once all have been judged."""
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

    def _loss(self, flax: FlaxStep, torch: TorchStep) -> None:
        error = exact_error(np.asarray(flax.loss), np.asarray(torch.loss))
        self._add("loss", "", error, self.bound, np.asarray(flax.loss), np.asarray(torch.loss))

    def _gradients(self, flax: FlaxStep, torch: TorchStep) -> None:
        scale = max((largest(gradient) for gradient in torch.gradients.values()), default=0.0)
        for key, ours in flax.gradients.items():
            reason = self.untrained(key)
            if key in torch.gradients:
                theirs = torch.gradients[key]
            elif reason:
                self._left_out.setdefault(f"gradient of {key}", reason)
                continue
            else:
                theirs = np.zeros_like(ours)  # nothing in torch's loss depends on it
            self._add("gradient", key, exact_error(ours, theirs, scale), self.bound, ours, theirs)
        for key in torch.gradients:
            if key not in flax.gradients:
                self._left_out.setdefault(f"gradient of {key}", "not trained in flax")

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
            told = "torch has several" if flax.rate is not None else "optax's state does not tell it"
            self._left_out.setdefault("learning rate", f"{told}; the updates are compared")
            return
        ours, theirs = np.asarray(flax.rate), np.asarray(rates.pop())
        self._add("learning rate", "", relative(ours, theirs), tolerances.UPDATE, ours, theirs)

    def _updates(self, flax: FlaxStep, torch: TorchStep) -> None:
        for key, theirs in torch.updates.items():
            if key in flax.updates or not self.untrained(key):
                ours = flax.updates.get(key, np.zeros_like(theirs))
                error = update_error(ours, theirs, torch.before[key])
                detail = self._trained_by_one(key, flax, torch)
                self._add("update", key, error, tolerances.UPDATE, ours, theirs, detail)
            elif theirs.any() and key not in flax.rest:
                self._left_out.setdefault(
                    f"update of {key}", f"{self.untrained(key)}, and not trained in flax"
                )
        for key in flax.updates:
            if key not in torch.updates:
                self._left_out.setdefault(f"update of {key}", "no such parameter in torch")

    def _trained_by_one(self, key: str, flax: FlaxStep, torch: TorchStep) -> str:
        """Why only one side moves a parameter; empty where both do."""
        if key not in flax.updates:
            return "not trained in flax"
        passed_over = "" if key in torch.gradients else "torch has no gradient for it, and passes it over"
        return self.untrained(key) or passed_over

    def _buffers(self, flax: FlaxStep, torch: TorchStep) -> None:
        """Running statistics: what changes on either side."""
        for key, ours in flax.rest.items():
            if key in torch.updates and self.untrained(key):
                before = torch.before[key]
                theirs = before + torch.updates[key]
                if (ours != before).any() or (theirs != before).any():
                    detail = VARIANCE if key.endswith("running_var") else ""
                    self._add("buffer", key, relative(ours, theirs), tolerances.UPDATE, ours, theirs, detail)

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
            detail = "; ".join(part for part in (index, detail) if part)
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
