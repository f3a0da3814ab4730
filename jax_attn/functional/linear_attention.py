"""Attention whose weights are products of positive features, and what it takes linear time for.

`output[t] = Σ_s w[t, s] v[s] / Σ_s w[t, s]`, `w[t, s] = q[t] · k[s]`, over the keys that `t` may see. A product
needs no query to be summed over the keys: `q[t] · Σ_s k[s] v[s]ᵀ`. Each value gets one more feature that is 1, so
that the same sum gives the denominator. That sum is the state of decoding, `(B, N, F, H + 1)`.

There are the weights themselves, in time T², and the sum over all keys; for causal attention a sum that goes on
from chunk to chunk, with the weights within a chunk, and the same token by token. All compute the same.

Sums are made in float32 for 16-bit inputs. Where a query sees no key, its output is 0.

Source: Katharopoulos et al. (arXiv 2006.16236); in chunks: Hua et al. (arXiv 2202.10447), section 3.2.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jax_attn.functional.chunks import from_chunks, in_chunks
from jax_attn.functional.dtypes import accumulator


def elu_features(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """`elu(x) + 1`: `x + 1` above 0 and `exp(x)` below, where the sum would lose its digits."""
    return jnp.where(x > 0, x + 1, jnp.exp(jnp.minimum(x, 0)))


def linear_attention_weights(
    query: Float[Array, "B T N F"],
    key: Float[Array, "B S N F"],
    mask: Bool[Array, "B S"] | None = None,
    is_causal: bool = False,
) -> Float[Array, "B N T S"]:
    """The weights themselves: each row sums to 1, or to 0 where nothing may be attended to."""
    wide = accumulator(query.dtype)
    scores = jnp.einsum("btnf,bsnf->bnts", query, key, preferred_element_type=wide)
    allowed = jnp.ones(scores.shape[-2:], bool)
    if is_causal:
        allowed = jnp.tril(allowed)
    if mask is not None:
        allowed = allowed & mask[:, None, None]
    scores = jnp.where(allowed, scores, 0)
    return _divided(scores, jnp.sum(scores, axis=-1, keepdims=True)).astype(query.dtype)


def bidirectional_linear_attention(
    query: Float[Array, "B T N F"],
    key: Float[Array, "B S N F"],
    value: Float[Array, "B S N H"],
    mask: Bool[Array, "B S"] | None = None,
) -> Float[Array, "B T N H"]:
    """Every query sees every key that `mask` keeps: one sum over the keys serves them all."""
    q, k, v = _widened(query, key, value, mask)
    return _normalized(_read(q, _sum_of_keys(k, v)), value)


def empty_state(batch: int, heads: int, features: int, head_dim: int, dtype: jnp.dtype) -> Array:
    """The sum over no keys, `(batch, heads, features, head_dim + 1)`."""
    return jnp.zeros((batch, heads, features, head_dim + 1), accumulator(dtype))


def chunked_linear_attention(
    query: Float[Array, "B T N F"],
    key: Float[Array, "B T N F"],
    value: Float[Array, "B T N H"],
    mask: Bool[Array, "B T"] | None = None,
    state: Float[Array, "B N F H1"] | None = None,
    chunk_size: int = 64,
) -> tuple[Float[Array, "B T N H"], Float[Array, "B N F H1"]]:
    """Causal attention, chunk by chunk, after the keys that are summed up in `state`.

    Returns:
        the output, and the state with these keys in it.
    """
    q, k, v = _widened(query, key, value, mask)
    tokens = q.shape[1]
    size = max(1, min(chunk_size, tokens))

    def step(state: Array, chunk: tuple[Array, ...]) -> tuple[Array, Array]:
        q, k, v = chunk
        within = jnp.tril(jnp.einsum("btnf,bsnf->bnts", q, k))
        return state + _sum_of_keys(k, v), _read(q, state) + jnp.einsum("bnts,bsnh->btnh", within, v)

    chunks = tuple(map(partial(in_chunks, size=size), (q, k, v)))
    state, read = jax.lax.scan(step, _started(state, k, v), chunks)
    return _normalized(from_chunks(read, tokens), value), state


def recurrent_linear_attention(
    query: Float[Array, "B T N F"],
    key: Float[Array, "B T N F"],
    value: Float[Array, "B T N H"],
    mask: Bool[Array, "B T"] | None = None,
    state: Float[Array, "B N F H1"] | None = None,
) -> tuple[Float[Array, "B T N H"], Float[Array, "B N F H1"]]:
    """What `chunked_linear_attention` computes, token by token: `state += k vᵀ`, then `q · state`."""

    def step(state: Array, token: tuple[Array, ...]) -> tuple[Array, Array]:
        q, k, v = token
        state = state + k[..., None] * v[..., None, :]
        return state, jnp.einsum("bnf,bnfh->bnh", q, state)

    q, k, v = _widened(query, key, value, mask)
    tokens = tuple(x.swapaxes(0, 1) for x in (q, k, v))
    state, read = jax.lax.scan(step, _started(state, k, v), tokens)
    return _normalized(read.swapaxes(0, 1), value), state


def _widened(query: Array, key: Array, value: Array, mask: Array | None) -> tuple[Array, Array, Array]:
    """The operands in the dtype of sums, values with their 1, and zeros for the keys that are masked."""
    wide = accumulator(value.dtype)
    q, k, v = (x.astype(wide) for x in (query, key, value))
    v = jnp.concatenate([v, jnp.ones_like(v[..., :1])], axis=-1)
    if mask is not None:
        k, v = (jnp.where(mask[..., None, None], x, 0) for x in (k, v))
    return q, k, v


def _started(state: Array | None, key: Array, value: Array) -> Array:
    """What a scan begins with: on a mesh the sum over no keys lies where that over some will."""
    none = _sum_of_keys(key[:, :0], value[:, :0])
    return none if state is None else state.astype(key.dtype) + none


def _sum_of_keys(key: Array, value: Array) -> Array:
    return jnp.einsum("bsnf,bsnh->bnfh", key, value)


def _read(query: Array, state: Array) -> Array:
    return jnp.einsum("btnf,bnfh->btnh", query, state)


def _normalized(read: Array, value: Array) -> Array:
    return _divided(read[..., :-1], read[..., -1:]).astype(value.dtype)


def _divided(numerator: Array, total: Array) -> Array:
    """The quotient, and 0 where the total is 0."""
    return jnp.where(total == 0, 0, numerator / jnp.where(total == 0, 1, total))
