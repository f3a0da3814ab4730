"""Dropout that is a hash of the random key and of where an element stands.

Of attention weights, any tile of any implementation can draw its part for itself: no matrix of masks is ever held,
and the same weights are dropped in every implementation, tile and sharding. Of activations, a mask takes a sixth of
the time of one by threefry (forward and backward, on a CPU), which was an eighth of a training step.
"""

import dataclasses
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jax_attn.functional.checks import require_probability

Draw = Callable[[Array, float, tuple[int, ...]], Array]  # key, probability to keep, shape -> True = keep

_given: ContextVar[Draw | None] = ContextVar("keep_masks", default=None)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dropout:
    """Each weight is 0 with probability `rate`, and scaled by `1 / (1 - rate)` otherwise.

    Attributes:
        seed: `(2,)` uint32, from the random key.
        rate: a probability.
    """

    seed: Any
    rate: float = dataclasses.field(metadata={"static": True})

    def keeps(self, *indices: Array) -> Bool[Array, "..."]:
        """True where the element at these integers is kept: `(b, h, q_idx, kv_idx)` of a weight. They broadcast."""
        *rows, column = (x.astype(jnp.uint32) for x in indices)
        first, second = (_mixed(self.seed[i] ^ _mixed(self.seed[1 - i] + _ODD)) for i in range(2))
        for x in rows:  # two words for each row, so that no two rows ever drew alike
            first, second = _mixed(first ^ x), _mixed(second + x * _ODD)
        bits = _mixed(_mixed(column ^ first) + second)
        return bits < jnp.uint32(round((1 - self.rate) * (2**32 - 1)))

    def drop(self, weights: Float[Array, "..."], keep: Bool[Array, "..."]) -> Float[Array, "..."]:
        """The weights that are kept, scaled."""
        if self.rate == 1:  # nothing is kept: 1 / (1 - rate) would make NaN of the gradient
            return jnp.zeros_like(weights)
        return jnp.where(keep, weights * jnp.asarray(1 / (1 - self.rate), weights.dtype), 0)


def make_dropout(rate: float, key: Array | None) -> Dropout | None:
    """The dropout of an arguments' pair that `check_dropout` has seen; None where everything is kept."""
    if rate == 0 or key is None:
        return None
    data = jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    words = data.astype(jnp.uint32)
    seed = words[:2]
    for i in range(2, words.shape[0]):  # keys of some generators are longer
        seed = _mixed(seed + words[i])
    return Dropout(seed, rate)


def check_dropout(rate: float, key: Array | None) -> None:
    """Raise ValueError unless the rate is a probability and a key comes with it."""
    require_probability("dropout_rate", rate)
    if rate > 0 and key is None:
        raise ValueError(f"dropout_rate={rate} needs dropout_key, a jax.random key; got None")


def draw_keep_mask(
    key: Array, rate: float, shape: tuple[int, ...], out_sharding: Any = None
) -> Bool[Array, "..."]:
    """True where an activation is kept, of the shape that is asked for; as `keep_masks_from` says, if it does.

    Args:
        key: a `jax.random` key.
        rate: how probably an element is dropped.
        shape: of the mask.
        out_sharding: how it is divided, on a mesh of Explicit axes.
    """
    draw, dropout = _given.get(), make_dropout(rate, key)
    if draw is not None:
        return draw(key, 1 - rate, shape)
    if dropout is None:
        return jnp.ones(shape, bool)
    *sizes, width = shape or (1,)
    rows = [
        jax.lax.broadcasted_iota(jnp.uint32, (size, *(1,) * (len(sizes) - axis)), 0)
        for axis, size in enumerate(sizes)
    ]
    columns = jax.lax.broadcasted_iota(
        jnp.uint32, (*sizes, width), len(sizes), out_sharding=out_sharding if shape else None
    )
    return dropout.keeps(*rows, columns).reshape(shape)


@contextmanager
def keep_masks_from(draw: Draw) -> Generator[None]:
    """Within it `draw(key, 1 - rate, shape)` says what is kept, for a comparison with others.

    The shape is that of activations, or `(B, N, T, S)` of attention weights.
    """
    token = _given.set(draw)
    try:
        yield
    finally:
        _given.reset(token)


def given_keep_masks() -> Draw | None:
    """What `keep_masks_from` was given, or None."""
    return _given.get()


_ODD = np.uint32(0x9E3779B9)


def _mixed(x: Array) -> Array:
    """A bijection of 32 bits in which every bit of the input flips half of the output's.

    Source: C. Wellons' `lowbias32` (nullprogram.com/blog/2018/07/31).
    """
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))
