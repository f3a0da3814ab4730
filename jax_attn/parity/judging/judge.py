"""The verdict on each pair of tensors, from its error or its noise ratio."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jax_attn.parity import tolerances
from jax_attn.parity.judging.errors import (
    common_scale,
    difference,
    finite,
    norm,
    orders,
    root_mean_square,
    settled,
    shown,
    size,
    widened,
    worst_error,
)
from jax_attn.parity.lanes import Lane
from jax_attn.parity.report import Result


@dataclass(frozen=True)
class Pair:
    """A tensor of Flax, its counterpart in torch, and the truth: torch's in float64."""

    kind: str
    name: str
    flax: np.ndarray
    torch: np.ndarray
    truth: np.ndarray

    @property
    def is_gradient(self) -> bool:
        """Whether it is one, of a parameter or of an input."""
        return self.kind.endswith("gradient")


Noise = tuple[float, float, float]
"""Our distance from the truth, torch's (at least the dtype's epsilon), and the size of the truth."""


def judge(case: str, lane: Lane, pairs: Sequence[Pair], bound: float) -> list[Result]:
    """A result for each pair. Gradients are judged together: those that are zero need the others' scale."""
    scale = _scale(lane, pairs)
    return [_judge_one(case, lane, pair, scale if pair.is_gradient else 0.0, bound) for pair in pairs]


def measure(result: Result, lane: Lane, pairs: Sequence[Pair], first: Sequence[Pair]) -> list[Noise]:
    """The noise of the tensor that `result` is about, in each order of magnitude that it had at `first`."""
    pair, like = (named(result, each) for each in (pairs, first))
    scale = _scale(lane, pairs) if pair.is_gradient else 0.0
    return noises(pair, orders(like.truth), lane.eps, scale)


def pooled(result: Result, draws: Sequence[Sequence[Noise]]) -> Result:
    """The result over several draws: root mean square over root mean square, in the worst order."""
    worst = (-1.0, 0.0)
    for order in zip(*draws, strict=True):
        ours, theirs, whole = (math.hypot(*numbers) for numbers in zip(*order, strict=True))
        worst = max(worst, (_over(ours, theirs), _over(ours, whole)), key=_nan_first)
    ratio, error = worst
    passed = bool(ratio <= result.bound)
    detail = "" if passed else f"{result.detail} (over {len(draws)} draws)"
    return replace(result, error=error, ratio=ratio, passed=passed, detail=detail)


def decided_by_few(result: Result, draws: Sequence[Sequence[Noise]]) -> bool:
    """Whether a result above the bound is within it in a good part of the draws: the rest decide."""
    within = [all(_over(ours, theirs) <= result.bound for ours, theirs, _ in draw) for draw in draws]
    return sum(within) >= tolerances.RARE * len(draws)


def noises(pair: Pair, parts: Sequence[Any], eps: float, scale: float = 0.0) -> list[Noise]:
    """(`|jax - truth|`, `max(|torch - truth|, eps |truth|)`, `|truth|`) of each part of a tensor.

    Where the truth is zero beside `scale`, the root mean square of all gradients, a tensor of that scale
    stands in for `|truth|`; among several parts each number counts as 1 at least.
    """
    flax, torch, truth = settled(pair.flax, pair.torch, pair.truth)
    found = []
    for part in parts:
        root = math.sqrt(truth[part].size)
        whole = max(norm(finite(truth[part])), root if len(parts) > 1 else 0.0)
        if whole <= tolerances.ZERO * scale * root:
            whole = scale * root
        ours, theirs = (norm(difference(side[part], truth[part])) for side in (flax, torch))
        found.append((ours, max(theirs, eps * whole), whole))
    return found


def named(result: Result, pairs: Sequence[Pair]) -> Pair:
    """The pair that a result is about."""
    return next(pair for pair in pairs if (pair.kind, pair.name) == (result.kind, result.name))


def _scale(lane: Lane, pairs: Sequence[Pair]) -> float:
    """The scale of all gradients: the largest value in an exact lane, the largest root mean square else."""
    gradients = [pair for pair in pairs if pair.is_gradient]
    if lane.exact:
        return common_scale((pair.torch for pair in gradients), size)
    return common_scale((pair.truth for pair in gradients), root_mean_square)


def _judge_one(case: str, lane: Lane, pair: Pair, scale: float, bound: float) -> Result:
    def result(error: float, bound: float, ratio: float | None = None, detail: str = "") -> Result:
        judged = error if ratio is None else ratio
        passed = bool(judged <= bound)  # NaN never passes
        return Result(
            case, lane.name, pair.kind, pair.name, error, bound, ratio, passed, "" if passed else detail
        )

    if pair.flax.shape != pair.torch.shape:
        return result(math.nan, bound, detail=f"shape {pair.flax.shape} in flax, {pair.torch.shape} in torch")
    if _nans(pair.flax) or _nans(pair.torch):
        return result(math.nan, bound, detail=_nan_detail(pair))
    if lane.exact or not _is_inexact(pair.torch):
        error, index = worst_error(pair.flax, pair.torch, scale)
        detail = shown(pair.flax, pair.torch, index) if pair.torch.size else ""
        if not _is_inexact(pair.torch):
            return result(error, 0.0, detail=detail)
        return result(error, bound, detail=detail + _narrow(pair, lane))
    if _nans(pair.truth):
        return result(math.nan, tolerances.NOISE_RATIO, detail="torch gives NaN in float64")
    parts = orders(pair.truth)
    found = [
        (_over(ours, theirs), _over(ours, whole), part)
        for part, (ours, theirs, whole) in zip(parts, noises(pair, parts, lane.eps, scale), strict=True)
    ]
    ratio, error, part = max(found, key=_nan_first)
    return result(error, tolerances.NOISE_RATIO, ratio, detail=_furthest(pair, part))


def _nan_first(found: tuple[float, ...]) -> float:
    return math.inf if math.isnan(found[0]) else found[0]


def _over(a: float, b: float) -> float:
    return 0.0 if a == 0 else math.inf if b == 0 else a / b


def _is_inexact(array: np.ndarray) -> bool:
    return array.dtype.kind in "fcV"


def _nans(array: np.ndarray) -> int:
    return int(np.isnan(widened(array)).sum())


def _furthest(pair: Pair, part: Any) -> str:
    """Where in a part the error is largest, with both values."""
    if not pair.truth.size:
        return ""
    a, _, truth = settled(pair.flax, pair.torch, pair.truth)
    apart = np.full(a.shape, -1.0)
    apart[part] = np.abs(difference(a, truth))[part]
    index = tuple(map(int, np.unravel_index(int(np.argmax(apart)), a.shape)))
    return shown(pair.flax, pair.truth, index)


def _nan_detail(pair: Pair) -> str:
    counts = [("flax", _nans(pair.flax)), ("torch", _nans(pair.torch))]
    return "NaN in " + " and ".join(
        f"{count} of {pair.flax.size} values of {side}" for side, count in counts if count
    )


def _narrow(pair: Pair, lane: Lane) -> str:
    sides = [(side, str(array.dtype)) for side, array in (("flax", pair.flax), ("torch", pair.torch))]
    wide = (lane.dtype, lane.complex_dtype)
    narrow = [f"{side} gives {dtype}" for side, dtype in sides if dtype not in wide]
    return f"; {' and '.join(narrow)} in the {lane.name} lane" if narrow else ""
