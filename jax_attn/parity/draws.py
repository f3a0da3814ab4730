"""A noise ratio is itself noise: measured again on further draws, where one draw looks suspicious.

Both of its norms are rounding errors. Of a tensor with few independent values, one draw's ratio may come out
at 3 between two sides that are equally exact, and at 0.3 the next time. So a tensor whose first ratio is
beyond the bound is judged by the root mean square over several draws instead, with slightly other inputs and
other cotangents. A side that really is less exact is so in every draw, and stays beyond the bound.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from jax_attn.parity.calls import Call
from jax_attn.parity.lanes import is_floating
from jax_attn.parity.report import Result

DRAWS = 8
SPREAD = 0.02  # of a draw's inputs, relative: several units in the last place of bfloat16


def varied(call: Call, draw: int) -> Call:
    """The call with each float moved by a few percent. The first draw is the call itself."""
    if draw == 0:
        return call
    normal = np.random.default_rng([draw, 2]).standard_normal

    def move(array: np.ndarray) -> np.ndarray:
        return array * (1 + SPREAD * normal(array.shape)) if is_floating(array) else array

    return call.map(move)


def suspicious(results: Iterable[Result]) -> bool:
    """Whether a ratio is finite and beyond its bound. What is NaN or infinite needs no second look."""
    return any(not result.passed and _is_measured(result) for result in results)


def pooled(first: Sequence[Result], further: Sequence[Sequence[Result]]) -> list[Result]:
    """The first draw's results, the suspicious ones judged by all draws together."""
    if any(len(draw) != len(first) for draw in further):  # a draw could not be run: the first one stands
        return list(first)
    rows = zip(first, *further, strict=True)
    return [_pool(row) if suspicious(row[:1]) else row[0] for row in rows]


def _pool(draws: Sequence[Result]) -> Result:
    if not all(_is_measured(draw) for draw in draws):
        return draws[0]
    ours = _mean_square(draw.error for draw in draws)
    theirs = _mean_square(draw.error / draw.ratio if draw.ratio else 0.0 for draw in draws)
    ratio = math.sqrt(ours / theirs)
    detail = f"over {len(draws)} draws; in the first, {draws[0].ratio:.2f} {draws[0].detail}".rstrip()
    return replace(
        draws[0], error=math.sqrt(ours), ratio=ratio, passed=ratio <= draws[0].bound, detail=detail
    )


def _is_measured(result: Result) -> bool:
    return result.ratio is not None and math.isfinite(result.ratio) and math.isfinite(result.error)


def _mean_square(values: Iterable[float]) -> float:
    squares = [value * value for value in values]
    return sum(squares) / len(squares)
