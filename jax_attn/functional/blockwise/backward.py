"""The backward pass of blockwise attention: each tile of scores is computed again from the log-sum-exp.

With scores `s = mod(x)`, `x = scale q kᵀ`, weights `p = exp(s - lse)` and `delta = rowsum(o · do) - dlse`:
`ds = p (do vᵀ - delta)`, `dx = dmod(ds)`, `dq = scale dx k`, `dk = scale dxᵀ q`, `dv = pᵀ do`. dk and dv
are added up transposed, as `qᵀ dx` and `doᵀ p`: a product that contracts the leading axis of its left side
is slow on CPU.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jax_attn.functional.blockwise.forward import over_columns
from jax_attn.functional.blockwise.plan import Plan
from jax_attn.functional.blockwise.tiles import Group, Layout, Tile, padded_terms
from jax_attn.functional.terms import Terms, join, modified, split


def backward(
    layout: Layout,
    plan: Plan,
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K Hv"],
    terms: Terms,
    output: Float[Array, "B T N Hv"],
    lse: Float[Array, "B T N"],
    d_output: Float[Array, "B T N Hv"],
    d_lse: Float[Array, "B T N"],
) -> tuple[Any, ...]:
    """The gradients of query, key, value and of what `split(terms)` calls moving."""
    wide = jnp.promote_types(query.dtype, jnp.float32)
    moving_dtypes = jax.tree.map(jnp.dtype, split(terms)[0])
    moving, still = split(padded_terms(terms, plan, layout))
    # Where several groups share a key/value head their gradients are added up, which 16 bits do badly.
    summed = wide if layout.repeat_groups > 1 else key.dtype
    gradients = (
        jnp.zeros_like(query),
        jnp.zeros(key.shape, summed),
        jnp.zeros(value.shape, summed),
        jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.promote_types(x.dtype, jnp.float32)), moving),
    )

    def one_group(number: Array, gradients: Any) -> Any:
        group = Group(layout, number.astype(jnp.int32))
        q = group.query_tiles(query, plan.q_size).astype(wide) * layout.scale
        o, do = (group.query_tiles(x, plan.q_size).astype(wide) for x in (output, d_output))
        k, v = (group.key_tiles(x, plan.kv_size).astype(wide) for x in (key, value))
        lse_tiles = group.query_tiles(lse, plan.q_size, fill=jnp.inf)
        # exp(s - inf) is 0: rows that may attend to nothing have no gradient.
        lse_tiles = jnp.where(lse_tiles == -jnp.inf, jnp.inf, lse_tiles)
        delta = (o * do).sum(-1) - group.query_tiles(d_lse, plan.q_size)
        delta = jnp.where(lse_tiles == jnp.inf, 0, delta)

        def one_row(carry: Any, row: Any) -> Any:
            dk, dv, d_moving = carry
            dq, *carry = _row(group, plan, moving, still, *row, k, v, dk, dv, d_moving)
            return tuple(carry), dq

        dq, dk, dv, d_moving = gradients
        start = tuple(jnp.zeros((*x.shape[:2], x.shape[3], x.shape[2]), wide) for x in (k, v))
        rows = (jnp.arange(q.shape[0], dtype=jnp.int32), q, do, lse_tiles, delta)
        (dk_tiles, dv_tiles, d_moving), dq_tiles = lax.scan(one_row, (*start, d_moving), rows)
        return (
            group.put_queries(dq, dq_tiles * layout.scale),
            group.put_keys(dk, dk_tiles.swapaxes(2, 3)),
            group.put_keys(dv, dv_tiles.swapaxes(2, 3)),
            d_moving,
        )

    dq, dk, dv, (d_bias, d_captured) = lax.fori_loop(0, layout.batch * layout.groups, one_group, gradients)
    if terms.bias is not None:
        queries, keys = terms.bias.shape[2:]
        d_bias = d_bias[:, :, :queries, :keys]  # without what was filled up
    d_moving = jax.tree.map(lambda x, dtype: x.astype(dtype), (d_bias, d_captured), moving_dtypes)
    return dq, dk.astype(key.dtype), dv.astype(value.dtype), d_moving


def _row(
    group: Group,
    plan: Plan,
    moving: Any,
    still: Terms,
    row: Array,
    q: Float[Array, "k m H"],
    do: Float[Array, "k m Hv"],
    lse: Float[Array, "k m"],
    delta: Float[Array, "k m"],
    k: Float[Array, "columns k s H"],
    v: Float[Array, "columns k s Hv"],
    dk: Float[Array, "columns k H s"],
    dv: Float[Array, "columns k Hv s"],
    d_moving: Any,
) -> tuple[Any, ...]:
    """What one block of queries gives to the gradients: its own dq, and its part of the others."""
    q_transposed, do_transposed = q.mT, do.mT

    def step(column: Array, carry: Any, partial: bool) -> Any:
        dq, dk, dv, d_moving = carry
        tile = Tile(group, plan, row, column)
        k_tile, v_tile = (lax.dynamic_index_in_dim(x, column, keepdims=False) for x in (k, v))
        raw = jnp.einsum("kmh,ksh->kms", q, k_tile)
        shape = (*group.h.shape, plan.q_size, plan.kv_size)

        def scores_of(raw: Array, captured: Any) -> Array:
            score_mod = join((None, captured), still).score_mod
            return modified(raw.reshape(shape), tile.place, score_mod, None)

        bias, captured = moving
        if still.score_mod is None:
            scores, pull = raw.reshape(shape), None
        else:
            scores, pull = jax.vjp(scores_of, raw, captured)
        if bias is not None:
            scores = scores + tile.part_of(bias).astype(scores.dtype)
        allowed = tile.allowed(still, partial)
        weights = jnp.exp(scores - lse.reshape(shape[:-1])[..., None])
        if allowed is not None:
            weights = jnp.where(allowed, weights, 0)
        d_weights = jnp.einsum("kmh,ksh->kms", do, v_tile)
        d_scores = weights * (d_weights - delta[..., None]).reshape(shape)
        if allowed is not None:
            d_scores = jnp.where(allowed, d_scores, 0)  # 0 times what stands behind the padding may be NaN

        d_bias, d_captured = d_moving
        if bias is not None:
            d_bias = tile.add_to(d_bias, d_scores)
        if pull is None:
            d_raw = d_scores.reshape(raw.shape)
        else:
            d_raw, d_step = pull(d_scores)
            d_captured = jax.tree.map(jnp.add, d_captured, d_step)
        dq = dq + jnp.einsum("kms,ksh->kmh", d_raw, k_tile)
        dk = _add_at(dk, column, jnp.einsum("khm,kms->khs", q_transposed, d_raw))
        dv = _add_at(dv, column, jnp.einsum("khm,kms->khs", do_transposed, weights.reshape(raw.shape)))
        return dq, dk, dv, (d_bias, d_captured)

    return over_columns(group, plan, row, step, (jnp.zeros_like(q), dk, dv, d_moving))


def _add_at(x: Array, index: Array, part: Array) -> Array:
    """`x` with `part` added to `x[index]`, in place inside a loop."""
    return lax.dynamic_update_index_in_dim(
        x, lax.dynamic_index_in_dim(x, index, keepdims=False) + part, index, 0
    )
