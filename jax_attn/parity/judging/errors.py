"""How far two tensors are apart, in such a way that one huge number hides no error beside it."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jax_attn.parity import tolerances

FILL = 1e9
"""Numbers of this size that both sides hold at a place stand for infinity, as masks are filled with them."""

LEAP = 1e6
"""Magnitudes that are this many times apart, with none between, are of two scales."""

Index = tuple[int, ...]


def severity(error: float, bound: float) -> float:
    """Return the error in units of its bound: larger is worse, NaN is worst."""
    if math.isnan(error):
        return math.inf
    if bound == 0:
        return math.inf if error else 0.0
    return error / bound


def worst_error(flax: np.ndarray, torch: np.ndarray, scale: float = 0.0) -> tuple[float, Index]:
    """The largest error of two arrays of one shape, and where it is.

    It is `max|a - b| / max(1, max|b|)` among the numbers of one order of magnitude; infinities and fills that
    agree are passed over (see `settled` and `orders`). Between integers it is `|a - b|`; with a NaN, NaN.

    Args:
        flax: an array, in its own dtype.
        torch: its counterpart.
        scale: the size of all gradients, that a gradient of zero is measured by.
    """
    if not flax.size:
        return 0.0, ()
    if _is_integer(flax) and _is_integer(torch):
        apart = _integers_apart(flax, torch)
        return _at_largest(apart)
    a, b = settled(flax, torch)
    nan = np.isnan(a) | np.isnan(b)
    if nan.any():
        return math.nan, _index(int(np.argmax(nan)), nan.shape)
    error = np.asarray(np.abs(difference(a, b)))
    b = finite(b)
    zero = scale if size(b) <= tolerances.ZERO * scale else 0.0
    for order in orders(b):
        error[order] /= max(1.0, size(b[order]), zero)
    return _at_largest(error)


def exact_error(flax: np.ndarray, torch: np.ndarray, scale: float = 0.0) -> float:
    """`worst_error` without its place."""
    return worst_error(flax, torch, scale)[0]


def settled(flax: np.ndarray, torch: np.ndarray, *truth: np.ndarray) -> tuple[np.ndarray, ...]:
    """The arrays in 64 bits, with zeros where all hold the same infinity or the same fill.

    The same fill is one number of at least `FILL`; or on each side the lowest, or the highest, finite number
    of its dtype. The truth has it where rounding makes it torch's.
    """
    wide = [widened(array) for array in (flax, torch, *truth)]
    if size(wide[1]) < FILL:
        return tuple(wide)
    same = _extremes_agree(flax, torch) | ((wide[0] == wide[1]) & (np.abs(wide[1]) >= FILL))
    for number, array in enumerate(truth, 2):
        with np.errstate(over="ignore"):
            rounded = widened(array.astype(torch.dtype))
        extreme = _extremes_agree(array, torch)
        wide[number] = np.where(extreme, wide[1], wide[number])
        same = same & (extreme | (rounded == wide[1]))
    return tuple(np.where(same, 0.0, array) for array in wide)


def orders(reference: np.ndarray) -> list[Any]:
    """The places of the numbers of each order of magnitude, the smallest first; mostly there is one order.

    Where the largest is above `LEAP`, the magnitudes, those below 1 taken as 1, are parted at each leap.
    """
    if size(reference) <= LEAP:
        return [...]
    sizes = np.maximum(np.abs(finite(reference)), 1.0)
    in_order = np.unique(sizes)
    starts = in_order[1:][in_order[1:] / LEAP >= in_order[:-1]]
    number = np.searchsorted(starts, sizes, side="right")
    return [number == each for each in range(len(starts) + 1) if (number == each).any()]


def common_scale(arrays: Iterable[np.ndarray], size_of: Callable[[np.ndarray], float]) -> float:
    """The largest size of all arrays, as `size_of` has it, but for those that are huge beside all others."""
    sizes = [size_of(array[order]) for array in map(finite, arrays) for order in orders(array)]
    largest = max(sizes, default=0.0)
    if largest <= LEAP:
        return largest
    felt = np.array([each for each in sizes if each > 1 / LEAP])  # what is below is a zero, and its rounding
    return max(1.0, size(felt[orders(felt)[0]]))


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`a - b`, and 0 where both are the same infinity."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.where(a == b, 0.0, a - b)


def widened(array: np.ndarray) -> np.ndarray:
    """The array in 64 bits."""
    return np.asarray(array, np.complex128 if array.dtype.kind == "c" else np.float64)


def finite(array: np.ndarray) -> np.ndarray:
    """The array in 64 bits without its infinities: they are compared, but measure nothing."""
    wide = widened(array)
    known = np.isfinite(wide)
    return wide if known.all() else np.where(known, wide, 0.0)


def size(array: np.ndarray) -> float:
    """The largest magnitude."""
    if array.dtype.kind == "c":
        return float(np.max(np.abs(array), initial=0.0))
    return float(max(np.max(array, initial=0.0), -np.min(array, initial=0.0)))  # without a copy


def norm(array: np.ndarray) -> float:
    """The L2 norm, also of numbers whose squares are out of range."""
    largest = size(array)
    if not 0 < largest < math.inf:
        return largest
    scaled = array if 1e-100 < largest < 1e100 else array / largest
    length = float(np.linalg.norm(scaled.ravel()))
    return length if scaled is array else largest * length


def root_mean_square(array: np.ndarray) -> float:
    """The L2 norm of a typical element."""
    return norm(array) / math.sqrt(max(array.size, 1))


def shown(a: np.ndarray, b: np.ndarray, index: Index) -> str:
    """Both values at a place."""
    place = f"at [{', '.join(map(str, index))}]: " if index else ""
    values = [str(int(x[index])) if _is_integer(x) else f"{widened(x)[index]:.6g}" for x in (a, b)]
    return f"{place}flax {values[0]}, torch {values[1]}"


def _extremes_agree(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Where both hold the lowest, or the highest, finite number of their own dtype."""
    if not (jnp.issubdtype(one.dtype, jnp.floating) and jnp.issubdtype(other.dtype, jnp.floating)):
        return np.zeros(one.shape, bool)
    (low, high), (other_low, other_high) = (
        (array == jnp.finfo(array.dtype).min, array == jnp.finfo(array.dtype).max) for array in (one, other)
    )
    return (low & other_low) | (high & other_high)


def _is_integer(array: np.ndarray) -> bool:
    return array.dtype.kind in "iub"


def _integers_apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`|a - b|`, at least 1 where they differ: float64 cannot tell all integers of 64 bits apart."""
    return np.where(a == b, 0.0, np.maximum(np.abs(widened(a) - widened(b)), 1.0))


def _at_largest(error: np.ndarray) -> tuple[float, Index]:
    index = _index(int(np.argmax(error)), error.shape)
    return float(error[index]), index


def _index(flat: int, shape: tuple[int, ...]) -> Index:
    return tuple(map(int, np.unravel_index(flat, shape)))
