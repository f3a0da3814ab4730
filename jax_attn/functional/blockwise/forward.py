"""The forward pass of blockwise attention: online softmax over the blocks of keys."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jax_attn.functional.blockwise.plan import Plan
from jax_attn.functional.blockwise.tiles import Group, Layout, Tile, padded_terms
from jax_attn.functional.terms import Terms, modified

Running = tuple[
    Array, Array, Array
]  # largest score (k, m), sum of exponentials (k, m), weighted values (k, m, d)


def forward(
    layout: Layout,
    plan: Plan,
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K Hv"],
    terms: Terms,
) -> tuple[Array, Array, Array]:
    """Output `(B, T, N, Hv)` as `value`; log-sum-exp and largest score `(B, T, N)`, in float32 at least."""
    wide = jnp.promote_types(query.dtype, jnp.float32)
    terms = padded_terms(terms, plan, layout)
    rows_of = query.shape[:3]
    outputs = (
        jnp.zeros((*rows_of, value.shape[-1]), value.dtype),
        jnp.zeros(rows_of, wide),
        jnp.zeros(rows_of, wide),
    )

    def one_group(number: Array, outputs: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        group = Group(layout, number.astype(jnp.int32))
        q = group.query_tiles(query, plan.q_size).astype(wide) * layout.scale
        k, v = (group.key_tiles(x, plan.kv_size).astype(wide) for x in (key, value))
        rows = jnp.arange(q.shape[0], dtype=jnp.int32)
        tiles = lax.map(lambda at: _row(group, plan, terms, at[0], at[1], k, v), (rows, q))
        output, lse, peak = (group.put_queries(x, y) for x, y in zip(outputs, tiles, strict=True))
        return output, lse, peak

    return lax.fori_loop(0, layout.batch * layout.groups, one_group, outputs)


def _row(
    group: Group,
    plan: Plan,
    terms: Terms,
    row: Array,
    q: Float[Array, "k m H"],
    k: Float[Array, "columns k s H"],
    v: Float[Array, "columns k s Hv"],
) -> Running:
    """Output, log-sum-exp and largest score of one block of queries."""

    def step(column: Array, running: Running, partial: bool) -> Running:
        tile = Tile(group, plan, row, column)
        k_tile, v_tile = (lax.dynamic_index_in_dim(x, column, keepdims=False) for x in (k, v))
        scores = tile_scores(tile, terms, jnp.einsum("kmh,ksh->kms", q, k_tile), partial)
        peak, total, output = running
        new_peak = jnp.maximum(peak, scores.max(-1))
        base = jnp.where(new_peak == -jnp.inf, 0, new_peak)  # where nothing was allowed so far
        weights = jnp.exp(scores - base[..., None])
        kept = jnp.exp(peak - base)
        output = output * kept[..., None] + jnp.einsum("kms,ksh->kmh", weights, v_tile)
        return new_peak, total * kept + weights.sum(-1), output

    start = jnp.zeros(q.shape[:2], q.dtype)
    running = (start - jnp.inf, start, jnp.zeros((*q.shape[:2], v.shape[-1]), q.dtype))
    peak, total, output = over_columns(group, plan, row, step, running)
    output = output / jnp.where(total == 0, 1, total)[..., None]
    return output, peak + jnp.log(total), peak


def tile_scores(tile: Tile, terms: Terms, raw: Float[Array, "k m s"], partial: bool) -> Float[Array, "k m s"]:
    """Scores after mods and bias, -inf where they may not be attended to."""
    shape = (*tile.group.h.shape, tile.plan.q_size, tile.plan.kv_size)
    bias = None if terms.bias is None else tile.part_of(terms.bias)
    scores = modified(raw.reshape(shape), tile.place, terms.score_mod, bias)
    allowed = tile.allowed(terms, partial)
    if allowed is not None:
        scores = jnp.where(allowed, scores, -jnp.inf)
    return scores.reshape(raw.shape)


def over_columns(group: Group, plan: Plan, row: Array, step, carry):
    """`step(column, carry, partial)` for each block of keys that the row has to look at."""
    lists = (
        (plan.full_num, plan.full_idx, plan.most_full, False),
        (plan.partial_num, plan.partial_idx, plan.most_partial, True),
    )
    for num, idx, most, partial in lists:
        if most:
            at = (group.b if num.shape[0] > 1 else 0, group.index if num.shape[1] > 1 else 0, row)
            num, idx = jnp.asarray(num)[at], jnp.asarray(idx)[at]
            carry = lax.fori_loop(
                0, num, lambda i, c, idx=idx, partial=partial: step(idx[i], c, partial), carry
            )
    return carry
