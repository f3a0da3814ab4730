"""Tensors in which the large hides the small: whether the small ones are known any better than they agree.

What is left where large numbers cancel is of the rounding errors of the large. A correct port has others than
torch has. So where a tensor would agree beside its largest number, and its small numbers do not agree by
themselves, torch is run again on inputs that were moved by rounding errors, which shows how well they are known.
"""

from collections.abc import Sequence

import numpy as np

from jax_attn.parity import tolerances
from jax_attn.parity.judging.errors import difference, finite, orders, settled, size, widened
from jax_attn.parity.judging.judge import Pair, named
from jax_attn.parity.report import Result

UNSTEADY = "over the largest; rounding errors in the input move the smaller numbers of torch as far"


def is_uneven(result: Result, pairs: Sequence[Pair]) -> bool:
    """Whether a result of an exact lane that failed would pass beside its largest number."""
    inexact = result.kind != "run" and result.bound > 0
    return inexact and bool(np.isfinite(result.error)) and _plain(result, pairs) <= result.bound


def unsteady(result: Result, pairs: Sequence[Pair], moved: Sequence[Sequence[Pair]]) -> float | None:
    """The error beside the largest number, if Flax is no further from torch than torch is from itself.

    `moved` holds the pairs with torch's tensors where its inputs were moved by rounding errors.
    """
    pair = named(result, pairs)
    a, b = settled(pair.flax, pair.torch)
    error = np.array(np.abs(difference(a, b)))
    others = [settled(named(result, each).torch, pair.torch)[0] for each in moved]
    movement = np.max([np.abs(difference(other, b)) for other in others], axis=0)
    for order in orders(b):
        known = max(
            result.bound * max(1.0, size(finite(b[order]))), tolerances.NOISE_RATIO * size(movement[order])
        )
        if not size(error[order]) <= known:
            return None
    return _plain(result, pairs)


def _plain(result: Result, pairs: Sequence[Pair]) -> float:
    """`max|a - b| / max(1, max|b|)` over the whole tensor; over the largest gradient if it is zero beside."""
    pair = named(result, pairs)
    b = finite(pair.torch)
    scale = max((size(finite(each.torch)) for each in pairs if each.is_gradient), default=0.0)
    zero = scale if pair.is_gradient and size(b) <= tolerances.ZERO * scale else 0.0
    return size(difference(widened(pair.flax), widened(pair.torch))) / max(1.0, size(b), zero)
