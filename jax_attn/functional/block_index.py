"""Which batch entries, heads and blocks of queries an index of a block mask takes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array


def entries_of(index: Any, sizes: tuple[int, ...]) -> list[list[int]]:
    """Which entries of each axis an index of a block mask takes."""
    if len(sizes) != 3:
        raise ValueError(
            f"a stack of block masks has no batch entries to take; its lists are {len(sizes)}-dimensional. "
            "Take one block mask of it: jax.tree.map(lambda x: x[layer], stack)"
        )
    index = index if isinstance(index, tuple) else (index,)
    dots = [place for place, part in enumerate(index) if part is Ellipsis]
    given = len(index) - len(dots)
    if len(dots) > 1 or given > 3:
        raise ValueError(
            f"a block mask takes up to 3 indices, (B, H, Q_BLOCKS), and at most one ...; got {index}"
        )
    at = dots[0] if dots else given
    filled = (*index[:at], *[slice(None)] * (3 - given), *index[at + len(dots) :])
    entries = []
    for part, size in zip(filled, sizes, strict=True):
        kinds = slice | int | np.integer | list | range | np.ndarray | jax.Array
        if isinstance(part, bool | Tracer) or not isinstance(part, kinds):
            raise ValueError(f"an index must be an integer, a slice or a list of integers, got {part!r}")
        part = part if isinstance(part, slice) else np.asarray(part)
        if isinstance(part, np.ndarray) and (part.ndim > 1 or (part.size and part.dtype.kind not in "iu")):
            raise ValueError(f"an index must be an integer, a slice or a list of integers, got {part!r}")
        taken = np.atleast_1d(np.arange(size)[part if isinstance(part, slice) else part.astype(int)])
        if not len(taken):
            raise ValueError(f"index {index} leaves nothing of a block mask with (B, H, Q_BLOCKS) = {sizes}")
        entries.append(taken.tolist())
    return entries


def entry_of(entries: list[int], position: Array) -> Array:
    """`entries[position]`; the only entry is that of every position."""
    return jnp.int32(entries[0]) if len(entries) == 1 else jnp.asarray(entries, jnp.int32)[position]
