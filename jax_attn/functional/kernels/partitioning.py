"""Kernels in parts: how their results vary over the axes of a `shard_map`, and some batch entries at a time.

Every array has an axis of batch entries and one of heads in front, either of which may have but one entry: then it
is the same for all, or, in a result, the sum over all.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

Function = Callable[..., Sequence[Array]]  # of the origin, then of arrays


def by_batch(f: Function, entries: int, origin: Any, arrays: Sequence[Any]) -> list[Array]:
    """`f(origin, *arrays)` for so many batch entries at a time."""
    batch = arrays[0].shape[0]
    if entries >= batch:
        return list(f(origin, *arrays))
    entries = next(n for n in range(max(entries, 1), 0, -1) if batch % n == 0)
    whole = [x.shape[0] == batch for x in arrays]

    def part(at: tuple[Array, list[Array]]) -> list[Array]:
        turn, parts = at
        own = iter(parts)
        given = [next(own) if yes else x for yes, x in zip(whole, arrays, strict=True)]
        start = jnp.stack([jnp.asarray(origin)[0] + turn * entries, jnp.asarray(origin)[1]])
        return list(f(start.astype(jnp.int32), *given))

    parts = [
        jnp.reshape(x, (batch // entries, entries, *x.shape[1:]))
        for yes, x in zip(whole, arrays, strict=True)
        if yes
    ]
    results = lax.map(part, (jnp.arange(batch // entries), parts))
    shapes = jax.eval_shape(lambda *xs: f(np.zeros(2, np.int32), *xs), *arrays)
    return [
        x.reshape(shape.shape) if shape.shape[0] == batch else x.sum(0)
        for x, shape in zip(results, shapes, strict=True)
    ]


def like(shape: tuple[int, ...], dtype: Any, x: Array) -> jax.ShapeDtypeStruct:
    """A shape and dtype that varies over the axes of a `shard_map` as `x` does."""
    of_type = jax.typeof(x)
    for name in ("manual_axis_type", "vma"):  # the newer name and the older one
        if hasattr(of_type, name):
            return jax.ShapeDtypeStruct(shape, dtype, **{name: getattr(of_type, name)})
    return jax.ShapeDtypeStruct(shape, dtype)
