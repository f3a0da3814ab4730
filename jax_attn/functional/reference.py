"""The oracle: attention written for the reader, one einsum after another.

It holds the whole `(B, N, T, S)` matrix of scores, knows every option, and computes in float32 for 16-bit
inputs and in float64 for float64. Each faster implementation is tested against it; none imports from it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jax_attn.functional.dropout import given_keep_masks, make_dropout
from jax_attn.functional.dtypes import accumulator
from jax_attn.functional.softmax import masked_logsumexp, masked_softmax


class Attention(NamedTuple):
    """What attention computes on the way, and its output.

    Attributes:
        output: `(B, T, N, Hv)`, in the dtype of `value`.
        weights: `(B, N, T, S)`, what multiplies the values, dropout included.
        lse: `(B, T, N)`, the logarithm of the softmax's denominator; -inf where nothing may be attended to.
        max_scores: `(B, T, N)`, the largest score that the query may attend to, or -inf.
    """

    output: Array
    weights: Array
    lse: Array
    max_scores: Array


def reference_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K Hv"],
    bias: Float[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | None = None,
    *,
    scale: float | None = None,
    is_causal: bool = False,
    query_seq_lengths: Int[Array, "B"] | None = None,
    key_value_seq_lengths: Int[Array, "B"] | None = None,
    local_window_size: tuple[int, int] | None = None,
    segment_ids: tuple[Int[Array, "B T"], Int[Array, "B S"]] | None = None,
    softcap: float | None = None,
    sinks: Float[Array, "N"] | None = None,
    dropout_rate: float = 0.0,
    dropout_key: Array | None = None,
    keep: Bool[Array, "B N T S"] | None = None,
    score_mod: Callable[..., Array] | None = None,
    mask_mod: Callable[..., Array] | None = None,
) -> Attention:
    """`dropout(softmax(score_mod(softcap(query keyᵀ · scale)) + bias, where allowed)) value`.

    The arguments mean what they mean in `dot_product_attention` and `flex_attention`; here they are
    already normalised (four axes, pairs where a pair is meant) and are not checked.

    Source: Vaswani et al. (arXiv 1706.03762), section 3.2.1.
    """
    (batch, queries, heads, head_dim), keys = query.shape, key.shape[1]
    wide = accumulator(query.dtype)
    q, k, v = query.astype(wide), key.astype(wide), value.astype(wide)
    k, v = (jnp.repeat(x, heads // x.shape[2], axis=2) for x in (k, v))  # one key/value head per query head

    allowed = _allowed(
        (batch, heads, queries, keys),
        mask,
        mask_mod,
        is_causal,
        query_seq_lengths,
        key_value_seq_lengths,
        local_window_size,
        segment_ids,
    )
    # What nobody sees, or sees nothing, may hold anything: 0 times NaN would be NaN.
    q = jnp.where(allowed.any(axis=3).swapaxes(1, 2)[..., None], q, 0)
    k, v = (jnp.where(allowed.any(axis=2).swapaxes(1, 2)[..., None], x, 0) for x in (k, v))

    scores = jnp.einsum("btnh,bsnh->bnts", q, k) * (head_dim**-0.5 if scale is None else scale)
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    if score_mod is not None:
        scores = over_grid(score_mod, batch, heads, queries, keys, scores).astype(wide)
    if bias is not None:
        scores = scores + bias.astype(wide)

    # A sink is one more column of scores with no value to go with it.
    columns, open_columns = scores, allowed
    if sinks is not None:
        column = jnp.broadcast_to(sinks.astype(wide)[None, :, None, None], (batch, heads, queries, 1))
        columns = jnp.concatenate([scores, column], axis=-1)
        open_columns = jnp.concatenate([allowed, jnp.ones_like(column, bool)], axis=-1)
    weights = masked_softmax(columns, open_columns)[..., :keys]
    lse = masked_logsumexp(columns, open_columns)

    dropout, draw = make_dropout(dropout_rate, dropout_key), given_keep_masks()
    if dropout is not None:
        if keep is None and draw is not None and dropout_key is not None and dropout_rate < 1:
            keep = draw(dropout_key, 1 - dropout_rate, weights.shape)
        elif keep is None:
            keep = over_grid(dropout.keeps, batch, heads, queries, keys)
        weights = dropout.drop(weights, keep)

    output = jnp.einsum("bnts,bsnh->btnh", weights, v)
    max_scores = jnp.max(scores, axis=-1, initial=-jnp.inf, where=allowed)
    return Attention(
        output.astype(value.dtype), weights.astype(value.dtype), lse.swapaxes(1, 2), max_scores.swapaxes(1, 2)
    )


def _allowed(
    shape: tuple[int, int, int, int],
    mask: Array | None,
    mask_mod: Callable[..., Array] | None,
    is_causal: bool,
    query_seq_lengths: Array | None,
    key_value_seq_lengths: Array | None,
    local_window_size: tuple[int, int] | None,
    segment_ids: tuple[Array, Array] | None,
) -> Bool[Array, "B N T S"]:
    """Which query may attend to which key."""
    allowed = jnp.ones(shape, bool)
    q_idx, kv_idx = jnp.arange(shape[2])[None, None, :, None], jnp.arange(shape[3])[None, None, None, :]
    if mask is not None:
        allowed &= mask
    if mask_mod is not None:
        allowed &= over_grid(mask_mod, *shape)
    if is_causal:
        allowed &= kv_idx <= q_idx
    if local_window_size is not None:
        before, after = local_window_size
        allowed &= (kv_idx >= q_idx - before) & (kv_idx <= q_idx + after)
    if query_seq_lengths is not None:
        allowed &= q_idx < query_seq_lengths[:, None, None, None]
    if key_value_seq_lengths is not None:
        allowed &= kv_idx < key_value_seq_lengths[:, None, None, None]
    if segment_ids is not None:
        of_query, of_key = segment_ids
        allowed &= (of_query[:, :, None] == of_key[:, None, :])[:, None]
    return allowed


def over_grid(
    mod: Callable[..., Array], batch: int, heads: int, queries: int, keys: int, *scores: Array
) -> Array:
    """A mod of scalars `([score,] b, h, q_idx, kv_idx)` at every place of `(batch, heads, queries, keys)`."""
    if 0 in (batch, heads, queries, keys):  # a mod may index what is not there
        return scores[0] if scores else jnp.zeros((batch, heads, queries, keys), bool)
    given = (0,) * len(scores)
    for axis in range(3, -1, -1):
        mod = jax.vmap(mod, in_axes=given + tuple(0 if other == axis else None for other in range(4)))
    return mod(*scores, *(jnp.arange(size) for size in (batch, heads, queries, keys)))
