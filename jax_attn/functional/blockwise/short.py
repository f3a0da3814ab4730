"""Attention of short texts on one CPU device: all heads of all texts at once, as one operation.

XLA's CPU compiler makes a single loop over heads and queries, on all cores, of two products with a softmax between
them, and no matrix of scores is ever written; but only of a softmax in exactly this form (0.10.2 to 0.12.0):
- The sum of the weights divides the output, not the weights.
- What is closed is closed by a -inf that is added. A choice between two arrays in between ends the loop, and so
  do a mod, a soft-cap, dropout and a second reader of the scores: those calls are left to `serial.py`, and with
  them what is differentiated, for its log-sum-exp.
- Heads stand before queries. The four transpositions take as long as what is between them, and it pays.

What is added does not close a score of NaN: with -inf it is NaN still, in rows that do not see that key. So where a
row is NaN, and rows see different keys, `serial.py` computes them all again.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_attn.functional.blockwise import serial
from jax_attn.functional.blockwise.plan import Pattern
from jax_attn.functional.dense import emptied, whole_tile
from jax_attn.functional.dtypes import accumulator
from jax_attn.functional.terms import Terms

# Heads of all texts: of fewer, and where some share their keys or a text has only one, tiles are as quick.
FEWEST = 32
MOST_SCORES = 2**16  # of a head: of more, what the loop works on leaves the cache


def serves(query: Any, key: Any, terms: Terms) -> bool:
    """Whether a call has the form that becomes one loop, by the shapes of query and key, and whether that pays."""
    plain = terms.score_mod is None and terms.softcap is None and terms.dropout is None
    return plain and _pays(query, key)


def _pays(query: Any, key: Any) -> bool:
    (batch, queries, heads, _), (_, keys, kv_heads, _) = query.shape, key.shape
    many, short = batch * heads >= FEWEST and heads > 1, queries * keys <= MOST_SCORES
    return many and short and heads == kv_heads and query.dtype.itemsize <= 4


def forward(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K Hv"],
    terms: Terms,
    pattern: Pattern,
    scale: float,
) -> tuple[Array, Array, Array]:
    """As `serial.forward`, without what would be another reader of the scores: log-sum-exp and largest score."""
    call = (query, key, value, terms, pattern, scale)
    (batch, queries, heads, _), keys = query.shape, key.shape[1]
    wide, added = accumulator(query.dtype), terms.bias
    allowed = whole_tile(batch, heads, queries, keys).allowed(terms)
    if added is not None:
        added = added.astype(wide)
        is_open = added != -jnp.inf
        allowed = is_open if allowed is None else allowed & is_open
    if allowed is not None:
        query, key, value = emptied(query, key, value, allowed)
        added = jnp.where(allowed, 0 if added is None else added, jnp.asarray(-jnp.inf, wide))
        added = jnp.broadcast_to(added, (*added.shape[:3], keys))
    q, k, v = (_heads_first(x, heads, wide) for x in (query, key, value))
    q = q * scale

    scores = jnp.einsum("bnth,bnsh->bnts", q, k)
    scores = scores if added is None else scores + added
    peak = scores.max(-1, keepdims=True)
    weights = jnp.exp(scores - peak)
    output = jnp.einsum("bnts,bnsh->bnth", weights, v) / weights.sum(-1, keepdims=True)
    output = output.swapaxes(1, 2)
    if allowed is not None:  # of a row where all is closed it is NaN so far
        output = jnp.where(allowed.any(-1).swapaxes(1, 2)[..., None], output, 0)
    output = output.astype(value.dtype)
    if allowed is not None and allowed.shape[2] != 1:
        spoilt = jnp.isnan(output[..., 0]).any()  # a score of NaN makes all of its row NaN
        output = jax.lax.cond(spoilt, lambda output: serial.forward(*call)[0], lambda output: output, output)
    nothing = jnp.zeros(output.shape[:-1], wide)
    return output, nothing, nothing


def _heads_first(x: Float[Array, "B S K H"], heads: int, dtype: Any) -> Float[Array, "B N S H"]:
    """Heads before tokens, and those that several query heads share as often as they are read."""
    return jnp.repeat(x.astype(dtype).swapaxes(1, 2), heads // x.shape[2], axis=1)
