"""How much of each block of the score matrix a mask mod allows: nothing, some of it, or all.

The mask is asked for one row of blocks at a time and one number a block is kept, so 32k x 32k costs time (each
pair is asked once) but no memory to speak of.
"""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend.core import ClosedJaxpr
from jaxtyping import Array, Int

from jax_attn.functional.mods import check_mask_mod
from jax_attn.functional.terms import Mod, Program

EMPTY, PARTIAL, FULL = 0, 1, 2


class Sizes(NamedTuple):
    """The sizes of a mask, in entries, and of its blocks."""

    batch: int
    heads: int
    queries: int
    keys: int
    q_size: int
    kv_size: int


def block_kinds(
    mask_mod: Callable[..., Array], program: ClosedJaxpr, sizes: Sizes
) -> Int[Array | np.ndarray, "B H rows columns"]:
    """EMPTY, PARTIAL or FULL for each block; NumPy unless the mask mod captures a traced array.

    Masks of the same program and sizes are compiled once, whatever arrays they capture.

    Args:
        mask_mod: the mask mod.
        program: what `check_mask_mod` made of it.
        sizes: of the mask.
    """
    if any(isinstance(x, Tracer) for x in program.consts):
        return _kinds(_mod_of(program), sizes)
    wide, on_mesh = jax.config.read("jax_enable_x64"), not jax.sharding.get_abstract_mesh().empty

    def known() -> np.ndarray:
        with jax.enable_x64(wide):
            mod = _mod_of(check_mask_mod(mask_mod) if on_mesh else program)  # a program keeps its mesh
            return np.asarray(_kinds(mod.with_captured([np.asarray(x) for x in mod.captured]), sizes))

    # A trace, a mesh (of chips that are perhaps not here) and a default device belong to the caller's thread.
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(known).result()


def _mod_of(program: ClosedJaxpr) -> Mod:
    return Mod(list(program.consts), Program(program))


@partial(jax.jit, static_argnames="sizes")
def _kinds(mod: Mod, sizes: Sizes) -> Int[Array, "B H rows columns"]:
    rows, columns = -(-sizes.queries // sizes.q_size), -(-sizes.keys // sizes.kv_size)

    def kinds_of_entry(b: Array, captured: list[Array]) -> Int[Array, "H rows columns"]:
        def kinds_of_row(place: tuple[Array, Array]) -> Int[Array, "columns"]:
            return _kinds_of_row(mod.with_captured(captured), sizes, b, *place)

        places = jnp.meshgrid(jnp.arange(sizes.heads), jnp.arange(rows), indexing="ij")
        kinds = jax.lax.map(kinds_of_row, tuple(axis.ravel() for axis in places))
        return kinds.reshape(sizes.heads, rows, columns)

    entries, by_entry = jnp.arange(sizes.batch), mod.by_entry(sizes.batch)
    if sizes.batch == 1 or not any(by_entry):
        return jax.lax.map(lambda b: kinds_of_entry(b, mod.captured), entries)
    # Side by side: the batch may be sharded, and each entry has its own row of the arrays.
    captured = [x[:, None] if yes else x for x, yes in zip(mod.captured, by_entry, strict=True)]
    return jax.vmap(kinds_of_entry, in_axes=(0, [0 if yes else None for yes in by_entry]))(entries, captured)


def _kinds_of_row(mod: Mod, sizes: Sizes, b: Array, h: Array, row: Array) -> Int[Array, "columns"]:
    columns = -(-sizes.keys // sizes.kv_size)
    q_idx, kv_idx = row * sizes.q_size + jnp.arange(sizes.q_size), jnp.arange(columns * sizes.kv_size)
    q_inside, kv_inside = q_idx < sizes.queries, kv_idx < sizes.keys
    # What lies behind the end is asked as the last position, so that no index leaves its array.
    place = (jnp.minimum(q_idx, sizes.queries - 1), jnp.minimum(kv_idx, sizes.keys - 1))
    allowed = over_pairs(mod.__call__)(b, h, *place) & q_inside[:, None] & kv_inside[None, :]
    counts = allowed.sum(axis=0, dtype=jnp.int32).reshape(columns, sizes.kv_size).sum(axis=1)
    some = jnp.where(counts > 0, PARTIAL, EMPTY)
    return jnp.where(counts == sizes.q_size * sizes.kv_size, FULL, some).astype(jnp.int8)


def over_pairs(mask_mod: Callable[..., Array]) -> Callable[..., Array]:
    """From one query and one key to `(queries, keys)`."""
    over_keys = jax.vmap(mask_mod, in_axes=(None, None, None, 0))
    return jax.vmap(over_keys, in_axes=(None, None, 0, None))
