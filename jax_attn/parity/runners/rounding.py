"""Numbers that one side keeps in float32, and the other computes: what they are before rounding."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jax_attn.parity import tolerances
from jax_attn.parity.judging.errors import FILL

EPS = float(np.finfo(np.float32).eps)

ULPS = 4
"""How far two float32 numbers may be apart that are meant to be one, each rounded by itself."""

COARSE = 1e-2
"""What float32 misses by this part of the largest number is no rounding: a fill with the lowest number, say."""

BLOCKS = 64
"""An array is not looked at in more blocks than these."""


@dataclass(frozen=True)
class Constant:
    """Numbers that a program holds or computes: in float64, and how far from each float32 comes at most."""

    exact: np.ndarray
    noise: np.ndarray

    def is_rounded_to(self, block: np.ndarray) -> bool:
        """Whether numbers in float32 are this constant, rounded."""
        return bool((np.abs(block - self.exact) <= self.noise).all())


def measured(exact: Sequence[np.ndarray], single: Sequence[np.ndarray]) -> Iterator[Constant]:
    """The constants of a program, which are `exact` where it runs in float64, and `single` where in float32.

    float32 has frequencies to the last digits; it has not the cosines of large angles. How far those are from
    float64 tells it; and the rounding of a frequency counts once for each position, the last axis but one.
    """
    for array in exact:
        last_digits = ULPS * EPS * (np.abs(array) + _along(array))
        apart = [np.abs(other - array) for other in single if other.shape == array.shape]
        noise = min(apart, key=lambda a: float(a.max()), default=np.zeros(()))
        if (noise <= last_digits).all():
            yield Constant(array, last_digits)
        elif noise.max() <= COARSE * np.abs(array).max():
            yield Constant(array, last_digits + tolerances.NOISE_RATIO * noise.max())


def is_kept(array: np.ndarray) -> bool:
    """Whether float32 has all of the numbers, so that they may have been rounded to it."""
    with np.errstate(over="ignore"):
        return bool((array.astype(np.float32) == array).all())


def _along(array: np.ndarray) -> np.ndarray:
    """What each number is moved by where its frequency is: its position times the steps of its column."""
    if array.ndim < 2:
        return np.zeros(())
    steps = np.abs(np.diff(array, axis=-2)).max(-2, keepdims=True, initial=0.0)
    return np.arange(array.shape[-2])[:, None] * steps


def may_be_rounded(array: np.ndarray) -> bool:
    """Whether float32 may have rounded any of the numbers: they are not all whole, as masks are, and no fills."""
    return array.size > 0 and bool((np.abs(array) < FILL).all() and (array != np.round(array)).any())


def before_rounding(rounded: np.ndarray, constants: Sequence[Constant]) -> np.ndarray | None:
    """Numbers in float32 as they are in float64, where the other side computes them; None if they are none."""
    wide = rounded.astype(np.complex128 if np.iscomplexobj(rounded) else np.float64)
    found = False
    for part in (wide.real, wide.imag) if np.iscomplexobj(wide) else (wide,):
        view = np.squeeze(part)
        single, nearest = view.copy(), dict[Any, float]()
        for constant, place in _places(view.shape, constants):
            apart = float(np.abs(single[place] - constant.exact).max())
            key = str(place)
            if apart < nearest.get(key, np.inf) and constant.is_rounded_to(single[place]):
                view[place], nearest[key], found = constant.exact, apart, True
    return wide if found else None


def _places(
    whole: tuple[int, ...], constants: Sequence[Constant]
) -> Iterator[tuple[Constant, tuple[slice, ...]]]:
    """Where each constant, or a block of it, may stand in an array of this shape."""
    for constant in constants:
        shape = constant.exact.shape
        if len(shape) == len(whole):
            block = tuple(map(min, shape, whole))
            for source in _blocks(shape, block):
                for place in _blocks(whole, block):
                    yield Constant(constant.exact[source], constant.noise[source]), place


def _blocks(whole: tuple[int, ...], part: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """The first places side by side that a part of this shape has in the whole."""
    starts = (range(0, size - step + 1, step) for size, step in zip(whole, part, strict=True))
    for corner in itertools.islice(itertools.product(*starts), BLOCKS):
        yield tuple(slice(start, start + step) for start, step in zip(corner, part, strict=True))
