"""Attention over the whole matrix of scores: the fastest way for short sequences."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_attn.functional.dropout import drop
from jax_attn.functional.softmax import masked_logsumexp, masked_softmax
from jax_attn.functional.terms import Place, Terms, modified, over_tile


class Dense(NamedTuple):
    """Output `(B, T, N, Hv)`, log-sum-exp and largest score `(B, T, N)`, weights `(B, N, T, S)`."""

    output: Array
    lse: Array
    max_scores: Array
    weights: Array


def dense_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K Hv"],
    terms: Terms,
    *,
    scale: float,
    dropout_rate: float = 0.0,
    dropout_key: Array | None = None,
) -> Dense:
    """Two einsums with the terms and the softmax between them.

    The products take the operands in their own dtype and add up in float32 at least; the softmax runs there
    too.
    """
    (batch, queries, heads, head_dim), (_, keys, kv_heads, _) = query.shape, key.shape
    wide = jnp.promote_types(query.dtype, jnp.float32)
    rows = heads // kv_heads * queries
    # The query heads that share a key/value head stand below one another: XLA's CPU products take two and a
    # half times as long with an axis of their own for them.
    grouped = query.swapaxes(1, 2).reshape(batch, kv_heads, rows, head_dim)
    scores = jnp.einsum("bkmh,bskh->bkms", grouped, key, preferred_element_type=wide) * scale
    scores = scores.reshape(batch, heads, queries, keys)

    scores, allowed = _with_terms(scores, terms)
    weights = masked_softmax(scores, allowed)
    if allowed is not None:
        scores = jnp.where(allowed, scores, -jnp.inf)
        # Zeros already, but what comes back for them may be infinite in 16 bits, and must not meet the zeros.
        weights = jnp.where(allowed, weights, 0)
    max_scores = jax.lax.stop_gradient(jnp.max(scores, axis=-1))
    lse = masked_logsumexp(scores)
    weights = drop(weights, dropout_rate, dropout_key)

    weights = weights.astype(value.dtype)
    grouped = weights.reshape(batch, kv_heads, rows, keys)
    output = jnp.einsum("bkms,bskh->bkmh", grouped, value, preferred_element_type=wide)
    output = output.reshape(batch, heads, queries, value.shape[-1]).swapaxes(1, 2).astype(value.dtype)
    return Dense(output, lse.swapaxes(1, 2), max_scores.swapaxes(1, 2), weights)


def _with_terms(scores: Float[Array, "B N T S"], terms: Terms) -> tuple[Array, Array | None]:
    """The scores that go into the softmax, and what it may attend to (None: everything)."""
    batch, heads, queries, keys = scores.shape

    def place(b: Array) -> Place:
        return Place(b, jnp.arange(heads), jnp.arange(queries), jnp.arange(keys))

    entries = jnp.arange(batch)
    mods = [mod for mod in (terms.mask_mod, terms.every_mask_mod) if mod is not None]
    masks = [jax.vmap(lambda b, mod=mod: over_tile(mod, place(b)))(entries) for mod in mods]
    if terms.mask is not None:
        masks.append(terms.mask)
    allowed = None
    for mask in masks:
        allowed = mask if allowed is None else allowed & mask
    if allowed is not None:
        allowed = jnp.broadcast_to(allowed, scores.shape)
    if terms.score_mod is not None:
        scores = jax.vmap(lambda s, b: modified(s, place(b), terms.score_mod, None))(scores, entries)
    if terms.bias is not None:
        scores = scores + terms.bias.astype(scores.dtype)
    return scores, allowed
