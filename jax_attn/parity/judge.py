"""Errors and noise ratios of pairs of tensors, and the verdict on each."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from jax_attn.parity import bounds
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


Noise = tuple[float, float, float]
"""Our distance from the truth, torch's (at least the dtype's epsilon), and the size of the truth."""


def judge(case: str, lane: Lane, pairs: Sequence[Pair], bound: float) -> list[Result]:
    """A result for each pair. Gradients are judged together: those that are zero need the others' scale."""
    scale = _scale(lane, pairs)
    results = []
    for pair in pairs:
        own_scale = 0.0 if pair.kind == "output" else scale
        results.append(_judge_one(case, lane, pair, own_scale, bound))
    return results


def measure(result: Result, lane: Lane, pairs: Sequence[Pair]) -> Noise:
    """The noise of the tensor that `result` tells of, in another draw."""
    pair = next(pair for pair in pairs if (pair.kind, pair.name) == (result.kind, result.name))
    scale = 0.0 if pair.kind == "output" else _scale(lane, pairs)
    return noise(_wide(pair.flax), _wide(pair.torch), _wide(pair.truth), lane.eps, scale)


def pooled(result: Result, draws: Sequence[Noise]) -> Result:
    """The result over several draws: root mean square over root mean square."""
    ours, theirs, norm = (math.hypot(*numbers) for numbers in zip(*draws, strict=True))
    ratio = _over(ours, theirs)
    passed = bool(ratio <= result.bound)
    detail = "" if passed else f"{result.detail} (over {len(draws)} draws)"
    return replace(result, error=_over(ours, norm), ratio=ratio, passed=passed, detail=detail)


def _scale(lane: Lane, pairs: Sequence[Pair]) -> float:
    """The scale of all gradients: the largest value in an exact lane, the largest root mean square else."""
    gradients = [pair for pair in pairs if pair.kind != "output"]
    if lane.exact:
        return max((_largest(_finite(pair.torch)) for pair in gradients), default=0.0)
    return max((_rms(pair.truth) for pair in gradients), default=0.0)


def _judge_one(case: str, lane: Lane, pair: Pair, scale: float, bound: float) -> Result:
    def result(error: float, bound: float, ratio: float | None = None, detail: str = "") -> Result:
        judged = error if ratio is None else ratio
        passed = bool(judged <= bound)  # NaN never passes
        return Result(
            case, lane.name, pair.kind, pair.name, error, bound, ratio, passed, "" if passed else detail
        )

    if pair.flax.shape != pair.torch.shape:
        return result(math.nan, bound, detail=f"shape {pair.flax.shape} in flax, {pair.torch.shape} in torch")
    a, b = _wide(pair.flax), _wide(pair.torch)
    if np.isnan(a).any() or np.isnan(b).any():
        return result(math.nan, bound, detail=_nan_detail(a, b))
    if not _is_inexact(pair.torch):
        return result(_largest(_difference(a, b)), 0.0, detail=_where(a, b))
    if lane.exact:
        error = exact_error(a, b, scale)
        return result(error, bound, detail=_where(a, b) + _narrow(pair, lane))
    truth = _wide(pair.truth)
    if np.isnan(truth).any():
        return result(math.nan, bounds.NOISE_RATIO, detail="torch gives NaN in float64")
    ours, theirs, norm = noise(a, b, truth, lane.eps, scale)
    return result(_over(ours, norm), bounds.NOISE_RATIO, _over(ours, theirs), detail=_where(a, truth))


def exact_error(flax: np.ndarray, torch: np.ndarray, scale: float = 0.0) -> float:
    """`max|a - b| / max(1, max|b|)`; over `scale` where b is zero beside it."""
    largest = _largest(_finite(torch))
    floor = max(1.0, largest, scale if largest <= bounds.ZERO * scale else 0.0)
    return _largest(_difference(flax, torch)) / floor


def noise(flax: np.ndarray, torch: np.ndarray, truth: np.ndarray, eps: float, scale: float = 0.0) -> Noise:
    """(`|jax - truth|`, `max(|torch - truth|, eps |truth|)`, `|truth|`).

    Where the truth is zero beside `scale`, the largest root mean square of all gradients, a tensor of that
    scale stands in for `|truth|`.
    """
    norm = _norm(_finite(truth))
    whole = scale * math.sqrt(truth.size)
    if norm <= bounds.ZERO * whole:
        norm = whole
    ours, theirs = _norm(_difference(flax, truth)), _norm(_difference(torch, truth))
    return ours, max(theirs, eps * norm), norm


def _over(a: float, b: float) -> float:
    return 0.0 if a == 0 else math.inf if b == 0 else a / b


def _wide(array: np.ndarray) -> np.ndarray:
    return np.asarray(array, np.complex128 if array.dtype.kind == "c" else np.float64)


def _is_inexact(array: np.ndarray) -> bool:
    return array.dtype.kind in "fcV"


def _difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`a - b`, and 0 where both are the same infinity."""
    with np.errstate(invalid="ignore"):
        return np.where(a == b, 0.0, a - b)


def _largest(array: np.ndarray) -> float:
    return float(np.max(np.abs(array), initial=0.0))


def _norm(array: np.ndarray) -> float:
    return float(np.linalg.norm(array.ravel()))


def _rms(array: np.ndarray) -> float:
    return _norm(_finite(array)) / math.sqrt(max(array.size, 1))


def _finite(array: np.ndarray) -> np.ndarray:
    """The array without its infinities: they are compared, but measure nothing."""
    wide = _wide(array)
    return np.where(np.isfinite(wide), wide, 0.0)


def _where(a: np.ndarray, b: np.ndarray) -> str:
    """Where the error is largest, with both values."""
    if not a.size:
        return ""
    index = np.unravel_index(int(np.argmax(np.abs(_difference(a, b)))), a.shape)
    place = f"at [{', '.join(map(str, index))}]: " if index else ""
    return f"{place}flax {a[index]:.6g}, torch {b[index]:.6g}"


def _nan_detail(a: np.ndarray, b: np.ndarray) -> str:
    counts = [(side, int(np.isnan(array).sum())) for side, array in (("flax", a), ("torch", b))]
    return "NaN in " + " and ".join(
        f"{count} of {a.size} values of {side}" for side, count in counts if count
    )


def _narrow(pair: Pair, lane: Lane) -> str:
    sides = [(side, str(array.dtype)) for side, array in (("flax", pair.flax), ("torch", pair.torch))]
    narrow = [f"{side} gives {dtype}" for side, dtype in sides if dtype != lane.dtype]
    return f"; {' and '.join(narrow)} in the {lane.name} lane" if narrow else ""
