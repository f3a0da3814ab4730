"""Attention in blocks with batch, heads and blocks of queries side by side: for chips, and for several devices.

Only the blocks of keys come one after another. Batch and heads are axes of every operation in the loop, so what
is sharded over them stays where it is. Where the operands are sharded over their positions, each device
computes its own rows of blocks against all keys, which are gathered once, before the loop. In the backward pass
the queries' gradients are computed by rows of blocks, and those of keys and values by columns: no two blocks
add to the same place.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from jax_attn.functional.blockwise.plan import Lists, Pattern, Plan, parallel_plan
from jax_attn.functional.blockwise.products import Rows, backward_step, finish, forward_step, make_rows, start
from jax_attn.functional.dtypes import accumulator
from jax_attn.functional.sharding import may_be_divided
from jax_attn.functional.terms import Differentiable, Terms, partition
from jax_attn.functional.tile import Place, Tile


def forward(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K Hv"],
    terms: Terms,
    pattern: Pattern,
    scale: float,
) -> tuple[Array, Array, Array]:
    """Output `(B, T, N, Hv)` as `value`; log-sum-exp and largest score `(B, T, N)`, in float32 at least."""
    blocks = _Blocks(query, key, pattern)
    q, k, v = blocks.queries(query) * scale, blocks.keys(key), blocks.keys(value)
    terms = terms.map_arrays(blocks.tiled)
    running = start(q, v.shape[-1])
    for lists, partial in blocks.plan.lists:

        def step(i: Array, running: Any, lists: Lists = lists, partial: bool = partial) -> Any:
            idx, tile = blocks.visit(lists, i, partial)
            return forward_step(running, tile, terms, q, *(_pick_blocks(x, idx) for x in (k, v)))

        running = _over(lists, step, running)
    output, lse, peak = (blocks.from_queries(x) for x in finish(running))
    return output.astype(value.dtype), lse, peak


def backward(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K Hv"],
    terms: Terms,
    pattern: Pattern,
    scale: float,
    output: Float[Array, "B T N Hv"],
    lse: Float[Array, "B T N"],
    d_output: Float[Array, "B T N Hv"],
    d_lse: Float[Array, "B T N"],
) -> tuple[Array, Array, Array, Differentiable]:
    """The gradients of query, key, value and of what `partition(terms)` calls differentiable."""
    blocks = _Blocks(query, key, pattern)
    q, k, v = blocks.queries(query) * scale, blocks.keys(key), blocks.keys(value)
    o, do, dlse = (blocks.queries(x) for x in (output, d_output, d_lse))
    rows = make_rows(q, o, do, blocks.queries(lse, -jnp.inf), dlse)
    differentiable, constant = partition(terms.map_arrays(blocks.tiled))
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, accumulator(x.dtype)), differentiable)

    dq, (d_bias, d_captured) = jnp.zeros_like(q), zeros
    for lists, partial in blocks.plan.lists:

        def by_row(i: Array, carry: Any, lists: Lists = lists, partial: bool = partial) -> Any:
            dq, d_bias, d_captured = carry
            idx, tile = blocks.visit(lists, i, partial)
            k_tile, v_tile = (_pick_blocks(x, idx) for x in (k, v))
            found, k_tile = backward_step(tile, differentiable, constant, rows, k_tile, v_tile)
            if d_bias is not None:
                d_bias = _add_to(d_bias, idx, found.d_scores)
            if d_captured and constant.score_mod is not None:
                d_captured = jax.tree.map(jnp.add, d_captured, found.d_captured)
            return dq + jnp.einsum("...ms,...sh->...mh", found.d_raw, k_tile), d_bias, d_captured

        dq, d_bias, d_captured = _over(lists, by_row, (dq, d_bias, d_captured))

    turned = partition(terms.map_arrays(lambda x: blocks.tiled(x).swapaxes(2, 3)))
    dk, dv = jnp.zeros_like(k), jnp.zeros_like(v)
    for lists, partial in blocks.plan.by_keys:

        def by_column(i: Array, carry: Any, lists: Lists = lists, partial: bool = partial) -> Any:
            dk, dv = carry
            idx, tile = blocks.visit(lists, i, partial, by_keys=True)
            own = Rows(*(_pick_blocks(x, idx) for x in rows))
            found, _ = backward_step(tile, *turned, own, k, v)
            dk = dk + jnp.einsum("...ms,...mh->...sh", found.d_raw, own.q)
            return dk, dv + jnp.einsum("...ms,...mh->...sh", found.weights, own.d_output)

        dk, dv = _over(lists, by_column, (dk, dv))

    gradients = (blocks.from_queries(dq * scale), blocks.from_keys(dk), blocks.from_keys(dv))
    dq, dk, dv = (x.astype(like.dtype) for x, like in zip(gradients, (query, key, value), strict=True))
    if terms.bias is not None:
        d_bias = blocks.from_tiled(d_bias, terms.bias)
    d_captured = jax.tree.map(lambda x, like: x.astype(like.dtype), d_captured, differentiable[1])
    return dq, dk, dv, (d_bias, d_captured)


def _over(lists: Lists, step: Callable[[Array, Any], Any], carry: Any) -> Any:
    known = not isinstance(lists.num, jax.Array)
    return lax.fori_loop(0, lists.most if known else lists.num.max(), step, carry)


class _Blocks:
    """How arrays are cut: `n` blocks of `q` queries and `c` blocks of `s` keys, `R` query heads for each of `K`."""

    def __init__(self, query: Array, key: Array, pattern: Pattern):
        self.batch, self.length, self.heads, _ = query.shape
        self.key_length, self.kv_heads = key.shape[1:3]
        self.repeats = self.heads // self.kv_heads
        lengths = self.length, self.key_length
        devices = jax.typeof(query).sharding.mesh.size if may_be_divided(query) else 1
        self.plan: Plan = parallel_plan(pattern, lengths, self.kv_heads, devices)
        self.n, self.c = self.plan.grid.shape[2:]
        self.wide = accumulator(query.dtype)

    def queries(self, x: Float[Array, "B T N *d"], fill: float = 0.0) -> Float[Array, "B K n m *d"]:
        """An array of queries, in blocks."""
        q = self.plan.q_size
        x = _filled_up(x.astype(self.wide), 1, self.n * q, fill)
        x = x.reshape(self.batch, self.n, q, self.kv_heads, self.repeats, *x.shape[3:])
        x = jnp.moveaxis(x, (3, 1, 4, 2), (1, 2, 3, 4))
        return x.reshape(self.batch, self.kv_heads, self.n, self.repeats * q, *x.shape[5:])

    def from_queries(self, x: Float[Array, "B K n m *d"]) -> Float[Array, "B T N *d"]:
        """The inverse of `queries`."""
        x = x.reshape(self.batch, self.kv_heads, self.n, self.repeats, self.plan.q_size, *x.shape[4:])
        x = jnp.moveaxis(x, (2, 4, 1, 3), (1, 2, 3, 4))
        return x.reshape(self.batch, self.n * self.plan.q_size, self.heads, *x.shape[5:])[:, : self.length]

    def keys(self, x: Float[Array, "B S K d"]) -> Float[Array, "B K c s d"]:
        """An array of keys, in blocks."""
        s = self.plan.kv_size
        x = _filled_up(_with_all_positions(x).astype(self.wide), 1, self.c * s)
        return jnp.moveaxis(x.reshape(self.batch, self.c, s, *x.shape[2:]), 3, 1)

    def from_keys(self, x: Float[Array, "B K c s d"]) -> Float[Array, "B S K d"]:
        """The inverse of `keys`."""
        x = jnp.moveaxis(x, 1, 3)
        return x.reshape(self.batch, self.c * self.plan.kv_size, *x.shape[3:])[:, : self.key_length]

    def tiled(self, x: Array) -> Array:
        """An array that broadcasts against `(B, N, T, S)`, as `(B, K, n, c, R, q, s)`; axes of one stay."""
        (q, s), (b, heads, *_) = (self.plan.q_size, self.plan.kv_size), x.shape
        rows, columns = (self.n, q) if x.shape[2] != 1 else (1, 1), (self.c, s) if x.shape[3] != 1 else (1, 1)
        for axis, (count, size) in ((2, rows), (3, columns)):
            x = _filled_up(x, axis, count * size)
        groups = (self.kv_heads, self.repeats) if heads != 1 else (1, 1)
        x = x.reshape(b, *groups, *rows, *columns)  # (B, K, R, n, q, c, s)
        return jnp.moveaxis(x, (3, 5), (2, 3))

    def from_tiled(self, x: Array, like: Array) -> Array:
        """The inverse of `tiled`."""
        x = jnp.moveaxis(x, (2, 3), (3, 5))
        b, k, r, n, q, c, s = x.shape
        x = x.reshape(b, k * r, n * q, c * s)
        return x[:, :, : like.shape[2], : like.shape[3]].astype(like.dtype)

    def visit(
        self, lists: Lists, i: Array, partial: bool, by_keys: bool = False
    ) -> tuple[Int[Array, "B K own"], Tile]:
        """Which block each row looks at in step `i`, or each column, and the tiles of these pairs."""
        idx = lax.dynamic_index_in_dim(jnp.asarray(lists.idx), i, 3, keepdims=False)
        still = None
        if not lists.even:
            still = (i < jnp.asarray(lists.num))[..., None, None, None]
        own = jnp.arange(idx.shape[2], dtype=jnp.int32)[None, None]
        rows, columns = (idx, own) if by_keys else (own, idx)
        q = jnp.arange(self.plan.q_size, dtype=jnp.int32)[None, None, None, None, :, None]
        s = jnp.arange(self.plan.kv_size, dtype=jnp.int32)[None, None, None, None, None, :]
        heads = jnp.arange(self.kv_heads, dtype=jnp.int32)[:, None] * self.repeats
        heads = heads + jnp.arange(self.repeats, dtype=jnp.int32)[None]
        place = Place(
            jnp.arange(self.batch, dtype=jnp.int32)[:, None, None, None, None, None],
            heads[None, :, None, :, None, None],
            rows[..., None, None, None] * self.plan.q_size + q,
            columns[..., None, None, None] * self.plan.kv_size + s,
        )
        ragged = self.key_length % self.plan.kv_size > 0
        lengths = (self.length, self.key_length)
        return idx, Tile(place, lambda x: _pick(x, idx), lengths, partial, ragged, still)


def _with_all_positions(x: Float[Array, "B S K d"]) -> Float[Array, "B S K d"]:
    """`x`, not sharded over its second axis; over the others as it is."""
    mesh, free = jax.typeof(x).sharding.mesh, PartitionSpec.UNCONSTRAINED
    if mesh.empty or AxisType.Auto not in mesh.axis_types:
        return x
    return lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(free, None, free, free)))


def _filled_up(x: Array, axis: int, length: int, fill: Any = 0) -> Array:
    if x.shape[axis] == length:
        return x
    widths = [(0, length - n if i == axis else 0) for i, n in enumerate(x.shape)]
    return jnp.pad(x, widths, constant_values=fill)


def _pick_blocks(x: Float[Array, "B K blocks *d"], idx: Int[Array, "b k own"]) -> Float[Array, "B K own *d"]:
    """The blocks of queries or keys that are looked at."""
    picked = _pick(x[:, :, None], idx)
    return jnp.broadcast_to(picked, (*picked.shape[:2], idx.shape[2], *picked.shape[3:]))


def _pick(x: Array, idx: Int[Array, "b k own"]) -> Array:
    """`x[b, k, own, idx[b, k, own]]`, without that axis; an axis of one serves for all."""

    def of_head(x: Array, idx: Array) -> Array:
        if x.shape[1] == 1:
            return x[:, 0]
        if x.shape[0] == 1:
            return x[0].at[idx].get(mode="promise_in_bounds")
        return jax.vmap(lambda x, i: lax.dynamic_index_in_dim(x, i, 0, keepdims=False))(x, idx)

    def over(f: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
        def g(x: Array, idx: Array) -> Array:
            axes = tuple(0 if y.shape[0] != 1 else None for y in (x, idx))
            if axes == (None, None):
                return f(x[0], idx[0])[None]
            return jax.vmap(f, in_axes=axes)(
                *(y[0] if at is None else y for y, at in zip((x, idx), axes, strict=True))
            )

        return g

    return over(over(of_head))(x, idx)


def _add_to(x: Array, idx: Int[Array, "b k n"], tiles: Float[Array, "B K n R q s"]) -> Array:
    """`x`, as `_Blocks.tiled` makes it, with tiles added where `_pick` took them from."""
    tiles = tiles.astype(x.dtype)
    if idx.shape[:2] == (1, 1) or x.shape[3] == 1:
        own = (*x.shape[:3], *x.shape[4:])
        tiles = tiles.sum([axis for axis in range(6) if own[axis] == 1 and axis != 2], keepdims=True)
        if x.shape[3] == 1:
            return x + (tiles.sum(2, keepdims=True) if own[2] == 1 else tiles)[:, :, :, None]
        rows = jnp.arange(tiles.shape[2]) if own[2] != 1 else jnp.zeros(tiles.shape[2], int)
        return x.at[:, :, rows, idx[0, 0]].add(tiles)
    at = [
        jnp.arange(n) if n != 1 else jnp.zeros(m, int)
        for n, m in zip(x.shape[:3], tiles.shape[:3], strict=True)
    ]
    tiles = tiles.sum([axis for axis in (3, 4, 5) if x.shape[axis + 1] == 1], keepdims=True)
    return x.at[at[0][:, None, None], at[1][None, :, None], at[2][None, None], idx].add(tiles)
