"""`jax.lax.scan` turn by turn, for those who have to be there at each: a traced body is entered but once."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp

_real_scan = jax.lax.scan


def unrolled_scan(
    applies: Callable[[], bool],
    around: Callable[[int, int], AbstractContextManager[Any]] = lambda turns, turn: nullcontext(),
) -> Callable[..., Any]:
    """A stand-in for `jax.lax.scan`, unrolled where `applies()`; a turn runs within `around(turns, turn)`."""

    def scan(
        f: Callable[..., Any],
        init: Any,
        xs: Any = None,
        length: int | None = None,
        reverse: bool = False,
        unroll: int | bool = 1,
        **options: Any,
    ) -> Any:
        leaves = jax.tree.leaves(xs)
        turns = leaves[0].shape[0] if length is None and leaves else length
        if not turns or not applies():
            return _real_scan(f, init, xs, length, reverse, unroll, **options)
        carry, ys = init, []
        for turn in reversed(range(turns)) if reverse else range(turns):
            with around(turns, turn):
                carry, y = f(carry, jax.tree.map(lambda leaf, turn=turn: leaf[turn], xs))
            ys.append(y)
        if reverse:
            ys.reverse()
        return carry, jax.tree.map(lambda *parts: jnp.stack(parts), *ys)

    return scan
