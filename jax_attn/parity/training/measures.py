"""How far the tensors of two trainings are apart, in the measures that they are judged by."""

import math
from collections.abc import Mapping

import numpy as np

from jax_attn.parity import tolerances
from jax_attn.parity.judging.errors import size

EPS = float(np.finfo(np.float64).eps)

Tensors = Mapping[str, np.ndarray]


def relative(ours: np.ndarray, theirs: np.ndarray, rounding: np.ndarray | float = 0.0) -> float:
    """The largest difference, less `rounding`, over the largest value of either; 0 where both are 0."""
    with np.errstate(invalid="ignore"):
        difference = np.where(ours == theirs, 0.0, np.abs(ours - theirs) - rounding)
    error = float(np.max(np.maximum(difference, 0.0), initial=0.0))
    return 0.0 if error == 0 else error / max(size(ours), size(theirs))


def update_error(ours: np.ndarray, theirs: np.ndarray, before: np.ndarray) -> float:
    """`relative`, of updates: both were rounded when they were added to what was there `before`."""
    return relative(ours, theirs, 2 * EPS * np.abs(before))


def drift(ours: Tensors, theirs: Tensors, before: Tensors) -> float:
    """The largest difference of any update, less the rounding of its parameter, over the largest update."""
    whole = max((size(update) for update in theirs.values()), default=0.0)
    apart = [
        np.max(np.maximum(np.abs(ours[key] - theirs[key]) - 2 * EPS * np.abs(before[key]), 0.0), initial=0.0)
        for key in theirs
        if key in ours
    ]
    error = float(np.max(apart, initial=0.0))
    return 0.0 if error == 0 else error / whole if whole else math.inf


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
        if not relative(ours[key], factor * theirs[key], rounding) <= tolerances.UPDATE:
            return None
    return factor


def global_norm(tensors: Tensors) -> float:
    """The norm of all together."""
    return math.sqrt(sum(float(np.vdot(tensor, tensor)) for tensor in tensors.values()))
