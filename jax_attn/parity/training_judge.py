"""Judges the steps of Flax that torch has led: each quantity by itself, in the order of cause."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jax_attn.parity import bounds
from jax_attn.parity.judge import exact_error
from jax_attn.parity.optimizer_state import EITHER_WAY, torch_name
from jax_attn.parity.report import LeftOut
from jax_attn.parity.training_flax import FlaxStep
from jax_attn.parity.training_report import Deviation
from jax_attn.parity.training_torch import TorchStep

EPS = float(np.finfo(np.float64).eps)

# Moments that are linear in the gradients, and so tell by what factor those differ.
LINEAR = ("exp_avg", "momentum_buffer", "grad_avg")

Tensors = Mapping[str, np.ndarray]


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
        self.deviations: list[Deviation] = []
        self._tentative: list[Deviation] = []
        self._rates: list[Deviation] = []
        self._left_out: dict[str, str] = {}

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
        # One factor in a step may be anything; one in each of them is the learning rate.
        if failed == {deviation.step for deviation in self._rates}:
            self.deviations += self._rates

    def _loss(self, flax: FlaxStep, torch: TorchStep) -> None:
        error = exact_error(np.asarray(flax.loss), np.asarray(torch.loss))
        self._add("loss", "", error, self.bound, np.asarray(flax.loss), np.asarray(torch.loss))

    def _gradients(self, flax: FlaxStep, torch: TorchStep) -> None:
        scale = max((_largest(gradient) for gradient in torch.gradients.values()), default=0.0)
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
        if flax.clipped is None:
            if self.clips:
                reason = "flax clips within its chain; give clip=(optax's, torch's) to see it by itself"
                self._left_out.setdefault("clipped gradient", reason)
            return
        for key in torch.clipped:
            if key in flax.clipped:
                ours, theirs = flax.clipped[key], torch.clipped[key]
                self._add("clipped gradient", key, relative(ours, theirs), bounds.UPDATE, ours, theirs)

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
                    found = self._deviation(name, key, relative(ours, theirs), bounds.UPDATE, ours, theirs)
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
        self._add("learning rate", "", relative(ours, theirs), bounds.UPDATE, ours, theirs)

    def _updates(self, flax: FlaxStep, torch: TorchStep) -> None:
        for key, theirs in torch.updates.items():
            reason = self.untrained(key)
            if key not in flax.updates and reason:
                if theirs.any() and key not in flax.rest:
                    self._left_out.setdefault(f"update of {key}", f"{reason}, and not trained in flax")
                continue
            ours = flax.updates.get(key)
            detail = reason if ours is not None else "not trained in flax"
            ours = np.zeros_like(theirs) if ours is None else ours
            if ours is not None and not reason and key not in torch.gradients:
                detail = "torch has no gradient for it, and passes it over"
            error = relative(ours, theirs, 2 * EPS * np.abs(torch.before[key]))
            self._add("update", key, error, bounds.UPDATE, ours, theirs, detail)

    def _buffers(self, flax: FlaxStep, torch: TorchStep) -> None:
        """Running statistics: what changes on either side."""
        for key, ours in flax.rest.items():
            if key in torch.updates and self.untrained(key):
                before = torch.before[key]
                theirs = before + torch.updates[key]
                if (ours != before).any() or (theirs != before).any():
                    self._add("buffer", key, relative(ours, theirs), bounds.UPDATE, ours, theirs)

    def _explain(self, flax: FlaxStep, torch: TorchStep) -> None:
        """Name the clipping or the learning rate as what differs, where one factor explains all of it."""
        failed = {d.quantity for d in self.deviations if d.step == self.step and not d.passed}
        failed |= {d.quantity for d in self._tentative if d.step == self.step and not d.passed}
        linear = [name for name in LINEAR if name in failed]
        if linear:
            ours = next(t for own, t in flax.moments.items() if torch_name(own, torch.moments) == linear[0])
            factor = common_factor(ours, torch.moments[linear[0]], {})
            self._explain_clipping(factor, torch, linear[0])
        elif "update" in failed and not failed - {"update"}:
            trained = {key: torch.updates[key] for key in torch.rates}
            factor = common_factor(flax.updates, trained, torch.before)
            blamed = {d.parameter for d in self.deviations if d.step == self.step and not d.passed}
            told = blamed <= trained.keys() & flax.updates.keys()  # no factor unfreezes a parameter
            if told and factor is not None and not self._explain_clipping(factor, torch, "the updates"):
                self._explain_rate(factor, torch)

    def _explain_clipping(self, factor: float | None, torch: TorchStep, told_by: str) -> bool:
        share = common_factor(torch.clipped, torch.gradients, {})
        norm, clipped = global_norm(torch.gradients), global_norm(torch.clipped)
        if factor is None or share is None or not self.clips or not norm or math.isinf(factor):
            return False
        detail = ""
        if share < 1 and abs(factor * share - 1) <= 1e-7:
            detail = "flax does not clip them"
        elif share < 1 and abs(factor - 1 - 1e-6 / norm) <= 1e-9:
            detail = "flax divides by the norm, torch by the norm + 1e-6"
        if not detail:
            return False
        flax, theirs = f"norm {factor * clipped:.7g}", f"norm {clipped:.7g}"
        detail = f"{detail}; told by {told_by}"
        error = abs(factor - 1)
        self.deviations.append(
            Deviation(
                self.lane,
                self.step,
                "clipped gradient",
                "",
                error,
                bounds.UPDATE,
                False,
                flax,
                theirs,
                detail,
            )
        )
        return True

    def _explain_rate(self, factor: float, torch: TorchStep) -> None:
        rates = set(torch.rates.values())
        flax, theirs = f"{factor:.10g} times torch's", "of several groups"
        if len(rates) == 1:
            rate = rates.pop()
            flax, theirs = "not 0" if math.isinf(factor) else f"{factor * rate:.10g}", f"{rate:.10g}"
        detail = f"every update is {factor:.10g} times torch's"
        if math.isinf(factor):
            detail = "torch moves nothing, flax does"
        if factor == 0:
            detail = "flax moves nothing"
        error = abs(factor - 1)
        self._rates.append(
            Deviation(
                self.lane, self.step, "learning rate", "", error, bounds.UPDATE, False, flax, theirs, detail
            )
        )

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


def relative(ours: np.ndarray, theirs: np.ndarray, rounding: np.ndarray | float = 0.0) -> float:
    """The largest difference, less `rounding`, over the largest value of either; 0 where both are 0."""
    with np.errstate(invalid="ignore"):
        difference = np.where(ours == theirs, 0.0, np.abs(ours - theirs) - rounding)
    largest = max(_largest(ours), _largest(theirs))
    error = float(np.max(np.maximum(difference, 0.0), initial=0.0))
    return 0.0 if error == 0 else error / largest


def drift(ours: Tensors, theirs: Tensors, before: Tensors) -> float:
    """The largest difference of any update, less the rounding of its parameter, over the largest update."""
    largest = max((_largest(update) for update in theirs.values()), default=0.0)
    apart = [
        np.max(np.maximum(np.abs(ours[key] - theirs[key]) - 2 * EPS * np.abs(before[key]), 0.0), initial=0.0)
        for key in theirs
        if key in ours
    ]
    error = float(np.max(apart, initial=0.0))
    return 0.0 if error == 0 else error / largest if largest else math.inf


def common_factor(ours: Tensors, theirs: Tensors, before: Tensors) -> float | None:
    """`c` where `ours = c · theirs` in every tensor; inf where theirs alone are all 0; else None."""
    keys = [key for key in theirs if key in ours]
    product = sum(float(np.vdot(ours[key], theirs[key])) for key in keys)
    square = sum(float(np.vdot(theirs[key], theirs[key])) for key in keys)
    if not square:
        return math.inf if any(ours[key].any() for key in keys) else None
    factor = product / square
    for key in keys:
        rounding = 4 * (1 + abs(factor)) * EPS * np.abs(before.get(key, 0.0))
        if not relative(ours[key], factor * theirs[key], rounding) <= bounds.UPDATE:
            return None
    return factor


def global_norm(tensors: Tensors) -> float:
    """The norm of all together."""
    return math.sqrt(sum(float(np.vdot(tensor, tensor)) for tensor in tensors.values()))


def _largest(array: np.ndarray) -> float:
    return float(np.max(np.abs(array), initial=0.0))


def _at_largest(ours: np.ndarray, theirs: np.ndarray) -> tuple[str, str, str]:
    """Where the two are furthest apart, and both values."""
    if ours.shape != theirs.shape or not ours.size:
        return "", f"shape {ours.shape}", f"shape {theirs.shape}"
    with np.errstate(invalid="ignore"):
        index = np.unravel_index(int(np.argmax(np.abs(ours - theirs))), ours.shape)
    place = f"at [{', '.join(map(str, index))}]" if index else ""
    return place, f"{ours[index]:.10g}", f"{theirs[index]:.10g}"
