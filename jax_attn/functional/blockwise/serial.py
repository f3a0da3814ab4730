"""Attention in blocks, one after another: what is quick on a CPU.

XLA runs one operation after another there, loops too, and divides only a large one among the cores. So a tile is
one key/value head by as many queries and keys as keep all cores at work, and no larger, or it leaves their
cache (`plan.py`). Of its queries those take part that may see any of the keys. Everything is sliced by a counter,
which no partitioner can see through: on several devices `parallel.py` serves.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jax_attn.functional.blockwise.plan import Pattern, SerialPlan, Visit, serial_plan
from jax_attn.functional.blockwise.products import (
    Rows,
    Running,
    backward_step,
    finish,
    forward_step,
    make_rows,
    start,
)
from jax_attn.functional.blockwise.serial_tiles import (
    Group,
    Layout,
    Region,
    add_to,
    keys_of,
    make_layout,
    queries_of,
)
from jax_attn.functional.dtypes import accumulator
from jax_attn.functional.terms import Differentiable, Terms, partition
from jax_attn.functional.tile import Tile


def forward(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K Hv"],
    terms: Terms,
    pattern: Pattern,
    scale: float,
) -> tuple[Array, Array, Array]:
    """Output `(B, T, N, Hv)` as `value`; log-sum-exp and largest score `(B, T, N)`, in float32 at least."""
    wide = accumulator(query.dtype)
    layout = make_layout(query, key)
    plan = serial_plan(pattern, layout.lengths, layout.groups, layout.group_repeats)
    terms = padded_terms(terms, plan, layout)
    query_bits, key_bits, value_bits = (as_bits(x) for x in (query, key, value))

    def one_group(number: Array) -> tuple[Array, Array, Array]:
        group = Group(layout, number)
        q = as_floats(group.query_tiles(query_bits, plan.q_size), query.dtype).astype(wide) * scale
        k = as_floats(group.key_tiles(key_bits, plan.kv_size), key.dtype).astype(wide)
        v = as_floats(group.key_tiles(value_bits, plan.kv_size), value.dtype).astype(wide)

        def one_row(at: tuple[Array, Array]) -> tuple[Array, Array, Array]:
            row, q = at

            def step(at: At, running: Running) -> Running:
                k_tile, v_tile = (lax.dynamic_index_in_dim(x, at.column, keepdims=False) for x in (k, v))
                own = Running(*(at.queries_of(x) for x in running))
                own = forward_step(own, at.tile, terms, at.queries_of(q), k_tile, v_tile)
                return Running(*(at.with_queries(x, part) for x, part in zip(running, own, strict=True)))

            output, lse, peak = finish(over_columns(group, plan, row, step, start(q, v.shape[-1])))
            return as_bits(output.astype(value.dtype)), lse, peak

        return lax.map(one_row, (jnp.arange(q.shape[0], dtype=jnp.int32), q))

    tiles = lax.map(one_group, jnp.arange(layout.batch * layout.groups, dtype=jnp.int32))
    output, lse, peak = (queries_of(layout, x) for x in tiles)
    return as_floats(output, value.dtype), lse, peak


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
    """The gradients of query, key, value and of what `partition(terms)` calls differentiable.

    dk and dv are added up transposed, as `qᵀ dx` and `doᵀ p`: a product that contracts the leading axis of its
    left side is slow on CPU.
    """
    wide = accumulator(query.dtype)
    layout = make_layout(query, key)
    plan = serial_plan(pattern, layout.lengths, layout.groups, layout.group_repeats)
    differentiable, constant = partition(padded_terms(terms, plan, layout))
    bits = [as_bits(x) for x in (query, output, d_output, key, value)]
    dtypes = [x.dtype for x in (query, output, d_output, key, value)]

    def one_group(d_terms: Any, number: Array) -> Any:
        group = Group(layout, number)
        tiles = [group.query_tiles(x, plan.q_size) for x in bits[:3]]
        tiles += [group.key_tiles(x, plan.kv_size) for x in bits[3:]]
        q, o, do, k, v = (as_floats(x, dtype).astype(wide) for x, dtype in zip(tiles, dtypes, strict=True))
        q = q * scale
        lse_tiles = group.query_tiles(lse, plan.q_size, fill=-jnp.inf)
        rows = make_rows(q, o, do, lse_tiles, group.query_tiles(d_lse, plan.q_size))

        def one_row(carry: Any, at: tuple[Array, Rows]) -> Any:
            row, rows = at
            dq, *carry = _row(group, plan, differentiable, constant, row, rows, k, v, *carry)
            return tuple(carry), dq

        empty = tuple(jnp.zeros((*x.shape[:2], x.shape[3], x.shape[2]), wide) for x in (k, v))
        numbers = jnp.arange(q.shape[0], dtype=jnp.int32)
        (dk, dv, d_terms), dq = lax.scan(one_row, (*empty, d_terms), (numbers, rows))
        return d_terms, (dq * scale, dk.swapaxes(2, 3), dv.swapaxes(2, 3))

    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, accumulator(x.dtype)), differentiable)
    numbers = jnp.arange(layout.batch * layout.groups, dtype=jnp.int32)
    (d_bias, d_captured), (dq, dk, dv) = lax.scan(one_group, zeros, numbers)
    if terms.bias is not None:
        queries, keys = terms.bias.shape[2:]
        d_bias = d_bias[:, :, :queries, :keys]  # without what was filled up
    gradients = (queries_of(layout, dq), keys_of(layout, dk), keys_of(layout, dv))
    dq, dk, dv = (x.astype(like.dtype) for x, like in zip(gradients, (query, key, value), strict=True))
    d_terms = jax.tree.map(lambda x, like: x.astype(like.dtype), (d_bias, d_captured), differentiable)
    return dq, dk, dv, d_terms


def as_bits(x: Array) -> Array:
    """Floats of 16 bits as integers: XLA for CPU converts a whole array of them where a loop slices it."""
    return lax.bitcast_convert_type(x, jnp.uint16) if x.dtype.itemsize == 2 else x


def as_floats(x: Array, dtype: Any) -> Array:
    """The inverse of `as_bits`."""
    return lax.bitcast_convert_type(x, dtype) if x.dtype != dtype else x


def _row(
    group: Group,
    plan: SerialPlan,
    differentiable: Differentiable,
    constant: Terms,
    row: Array,
    rows: Rows,
    k: Float[Array, "columns k s H"],
    v: Float[Array, "columns k s Hv"],
    dk: Float[Array, "columns k H s"],
    dv: Float[Array, "columns k Hv s"],
    d_terms: Any,
) -> tuple[Any, ...]:
    """What one block of queries gives to the gradients: its own dq, and its part of the others."""
    q_turned, do_turned = rows.q.mT, rows.d_output.mT

    def step(at: At, carry: Any) -> Any:
        dq, dk, dv, (d_bias, d_captured) = carry
        k_tile, v_tile = (lax.dynamic_index_in_dim(x, at.column, keepdims=False) for x in (k, v))
        own = Rows(*(at.queries_of(x) for x in rows))
        found, k_tile = backward_step(at.tile, differentiable, constant, own, k_tile, v_tile)
        if d_bias is not None:
            d_bias = add_to(group, at.region, d_bias, found.d_scores)
        if d_captured and constant.score_mod is not None:
            d_captured = jax.tree.map(jnp.add, d_captured, found.d_captured)
        own_dq = at.queries_of(dq) + jnp.einsum("kms,ksh->kmh", found.d_raw, k_tile)
        own_q, own_do = (at.queries_of(x, axis=2) for x in (q_turned, do_turned))
        dk = _add_at(dk, at.column, jnp.einsum("khm,kms->khs", own_q, found.d_raw))
        dv = _add_at(dv, at.column, jnp.einsum("khm,kms->khs", own_do, found.weights))
        return at.with_queries(dq, own_dq), dk, dv, (d_bias, d_captured)

    return over_columns(group, plan, row, step, (jnp.zeros_like(rows.q), dk, dv, d_terms))


def _add_at(x: Array, index: Array, part: Array) -> Array:
    """`x` with `part` added to `x[index]`, in place inside a loop."""
    return lax.dynamic_update_index_in_dim(
        x, lax.dynamic_index_in_dim(x, index, keepdims=False) + part, index, 0
    )


class At(NamedTuple):
    """Where a step is: a block of keys, and those queries of a block that look at it.

    Attributes:
        tile: their scores.
        region: where these lie.
        column: the number of the block of keys.
        first: the first of the queries, counted from the start of their block.
        whole: how many queries the block has.
    """

    tile: Tile
    region: Region
    column: Int[Array, ""]
    first: Int[Array, ""]
    whole: int

    def queries_of(self, x: Float[Array, "k *d"], axis: int = 1) -> Float[Array, "k *e"]:
        """The part of an array that belongs to the queries; its axis of rows holds those of several heads."""
        if self.region.queries == self.whole:
            return x
        heads = x.reshape(*x.shape[:axis], -1, self.whole, *x.shape[axis + 1 :])
        part = lax.dynamic_slice_in_dim(heads, self.first, self.region.queries, axis + 1)
        return part.reshape(*x.shape[:axis], -1, *x.shape[axis + 1 :])

    def with_queries(self, x: Float[Array, "k m *d"], part: Float[Array, "k n *d"]) -> Float[Array, "k m *d"]:
        """`x` with another part."""
        if self.region.queries == self.whole:
            return part
        heads, part = (y.reshape(y.shape[0], -1, n, *y.shape[2:]) for y, n in self._sizes(x, part))
        return lax.dynamic_update_slice_in_dim(heads, part, self.first, 2).reshape(x.shape)

    def _sizes(self, x: Array, part: Array) -> tuple[tuple[Array, int], ...]:
        return (x, self.whole), (part, self.region.queries)


def over_columns(
    group: Group, plan: SerialPlan, row: Array, step: Callable[[At, Any], Any], carry: Any
) -> Any:
    """`step(at, carry)` for each block of keys that the row has to look at."""
    for visit in plan.visits:
        num, index = visit.lists.num, (visit.lists.idx, visit.first)
        one = visit.lists.most == 1 and visit.lists.even
        if one and visit.first.size == 1:  # where the step is is known while tracing
            column, first = (jnp.int32(x.item()) for x in index)
            carry = step(_at(group, plan, row, visit, column, first), carry)
            continue
        here = (group.b if num.shape[0] > 1 else 0, group.index if num.shape[1] > 1 else 0, row)
        columns, starts = (jnp.asarray(x)[here] for x in index)

        def body(i: Array | int, carry: Any, visit: Visit = visit, lists: Any = (columns, starts)) -> Any:
            column, first = (x[i] for x in lists)
            return step(_at(group, plan, row, visit, column, first), carry)

        carry = body(0, carry) if one else lax.fori_loop(0, jnp.asarray(num)[here], body, carry)
    return carry


def _at(group: Group, plan: SerialPlan, row: Array, visit: Visit, column: Array, first: Array) -> At:
    region = Region(row * plan.q_size + first, visit.queries, column * plan.kv_size, plan.kv_size)
    return At(group.tile(region, visit.partial), region, column, first, plan.q_size)


def padded_terms(terms: Terms, plan: SerialPlan, layout: Layout) -> Terms:
    """The terms with their arrays filled up to whole tiles."""
    short = (-layout.queries % plan.q_size, -layout.keys % plan.kv_size)

    def filled_up(x: Array) -> Array:
        widths = [n if size > 1 else 0 for n, size in zip(short, x.shape[2:], strict=True)]
        return jnp.pad(x, [(0, 0), (0, 0), *((0, n) for n in widths)]) if any(widths) else x

    return terms.map_arrays(filled_up)
