"""Attention in blocks, one after another: what is quick on a CPU.

Each core is served best by one block of one head at a time, which stays in its cache: sharing a product among
the cores costs more than it gives. So the heads are dealt out to as many loops as there are cores, which XLA
runs side by side. Everything is sliced by a counter, which no partitioner can see through: on several devices
`parallel.py` serves.
"""

import os
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jax_attn.functional.blockwise.plan import Pattern, Plan, serial_plan
from jax_attn.functional.blockwise.products import Rows, backward_step, finish, forward_step, make_rows, start
from jax_attn.functional.blockwise.serial_tiles import Group, Layout, add_to, keys_of, make_layout, queries_of
from jax_attn.functional.dtypes import accumulator
from jax_attn.functional.terms import Differentiable, Terms, partition

MOST_LOOPS = 8  # each is compiled by itself


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
    plan = serial_plan(pattern, layout.lengths, layout.groups)
    terms = padded_terms(terms, plan, layout)
    query_bits, key_bits, value_bits = (as_bits(x) for x in (query, key, value))

    def one_group(number: Array) -> tuple[Array, Array, Array]:
        group = Group(layout, number)
        q = as_floats(group.query_tiles(query_bits, plan.q_size), query.dtype).astype(wide) * scale
        k = as_floats(group.key_tiles(key_bits, plan.kv_size), key.dtype).astype(wide)
        v = as_floats(group.key_tiles(value_bits, plan.kv_size), value.dtype).astype(wide)

        def one_row(at: tuple[Array, Array]) -> tuple[Array, Array, Array]:
            row, q = at

            def step(column: Array, running: Any, partial: bool) -> Any:
                tile = group.tile(plan, row, column, partial)
                k_tile, v_tile = (lax.dynamic_index_in_dim(x, column, keepdims=False) for x in (k, v))
                return forward_step(running, tile, terms, q, k_tile, v_tile)

            output, lse, peak = finish(over_columns(group, plan, row, step, start(q, v.shape[-1])))
            return as_bits(output.astype(value.dtype)), lse, peak

        return lax.map(one_row, (jnp.arange(q.shape[0], dtype=jnp.int32), q))

    tiles = _joined([lax.map(one_group, numbers) for numbers in _dealt_out(layout.batch * layout.groups)])
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
    plan = serial_plan(pattern, layout.lengths, layout.groups)
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
    # A bias may be as large as all scores: its gradient is held once.
    dealt = _dealt_out(layout.batch * layout.groups, 1 if terms.bias is not None else MOST_LOOPS)
    found = [lax.scan(one_group, zeros, numbers) for numbers in dealt]
    d_bias, d_captured = jax.tree.map(lambda *parts: sum(parts[1:], parts[0]), *(x for x, _ in found))
    dq, dk, dv = _joined([x for _, x in found])
    if terms.bias is not None:
        queries, keys = terms.bias.shape[2:]
        d_bias = d_bias[:, :, :queries, :keys]  # without what was filled up
    gradients = (queries_of(layout, dq), keys_of(layout, dk), keys_of(layout, dv))
    dq, dk, dv = (x.astype(like.dtype) for x, like in zip(gradients, (query, key, value), strict=True))
    d_terms = jax.tree.map(lambda x, like: x.astype(like.dtype), (d_bias, d_captured), differentiable)
    return dq, dk, dv, d_terms


def count_loops(count: int, most: int = MOST_LOOPS) -> int:
    """In how many equal parts the numbers below `count` are dealt out: one for each core where they can be."""
    most = min(most, os.cpu_count() or 1, count)
    return max(n for n in range(1, most + 1) if count % n == 0)


def _dealt_out(count: int, most: int = MOST_LOOPS) -> list[Array]:
    """The numbers below `count` in equal parts."""
    return list(jnp.arange(count, dtype=jnp.int32).reshape(count_loops(count, most), -1))


def _joined(parts: list[Any]) -> Any:
    return parts[0] if len(parts) == 1 else jax.tree.map(lambda *x: jnp.concatenate(x), *parts)


def as_bits(x: Array) -> Array:
    """Floats of 16 bits as integers: XLA for CPU converts a whole array of them where a loop slices it."""
    return lax.bitcast_convert_type(x, jnp.uint16) if x.dtype.itemsize == 2 else x


def as_floats(x: Array, dtype: Any) -> Array:
    """The inverse of `_bits`."""
    return lax.bitcast_convert_type(x, dtype) if x.dtype != dtype else x


def _row(
    group: Group,
    plan: Plan,
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

    def step(column: Array, carry: Any, partial: bool) -> Any:
        dq, dk, dv, (d_bias, d_captured) = carry
        tile = group.tile(plan, row, column, partial)
        k_tile, v_tile = (lax.dynamic_index_in_dim(x, column, keepdims=False) for x in (k, v))
        found, k_tile = backward_step(tile, differentiable, constant, rows, k_tile, v_tile)
        if d_bias is not None:
            d_bias = add_to(group, plan, row, column, d_bias, found.d_scores)
        if d_captured and constant.score_mod is not None:
            d_captured = jax.tree.map(jnp.add, d_captured, found.d_captured)
        dq = dq + jnp.einsum("kms,ksh->kmh", found.d_raw, k_tile)
        dk = _add_at(dk, column, jnp.einsum("khm,kms->khs", q_turned, found.d_raw))
        dv = _add_at(dv, column, jnp.einsum("khm,kms->khs", do_turned, found.weights))
        return dq, dk, dv, (d_bias, d_captured)

    return over_columns(group, plan, row, step, (jnp.zeros_like(rows.q), dk, dv, d_terms))


def _add_at(x: Array, index: Array, part: Array) -> Array:
    """`x` with `part` added to `x[index]`, in place inside a loop."""
    return lax.dynamic_update_index_in_dim(
        x, lax.dynamic_index_in_dim(x, index, keepdims=False) + part, index, 0
    )


def over_columns(group: Group, plan: Plan, row: Array, step: Any, carry: Any) -> Any:
    """`step(column, carry, partial)` for each block of keys that the row has to look at."""
    for lists, partial in plan.lists:
        num, idx = lists.num, lists.idx
        at = (group.b if num.shape[0] > 1 else 0, group.index if num.shape[1] > 1 else 0, row)
        if lists.most == 1 and lists.even:
            column = jnp.int32(idx.item()) if idx.size == 1 else jnp.asarray(idx)[at][0]
            carry = step(column, carry, partial)
            continue
        num, idx = jnp.asarray(num)[at], jnp.asarray(idx)[at]
        carry = lax.fori_loop(0, num, lambda i, c, idx=idx, partial=partial: step(idx[i], c, partial), carry)
    return carry


def padded_terms(terms: Terms, plan: Plan, layout: Layout) -> Terms:
    """The terms with their arrays filled up to whole tiles."""
    short = (-layout.queries % plan.q_size, -layout.keys % plan.kv_size)

    def filled_up(x: Array) -> Array:
        widths = [n if size > 1 else 0 for n, size in zip(short, x.shape[2:], strict=True)]
        return jnp.pad(x, [(0, 0), (0, 0), *((0, n) for n in widths)]) if any(widths) else x

    return terms.map_arrays(filled_up)
