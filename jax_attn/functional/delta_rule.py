"""The gated delta rule: a memory that forgets, and that writes what it did not know.

The memory `S` of a head maps keys to values. Each token fades it, reads what it holds for the token's key, and
writes a part `beta` of the difference; then the query is read::

    S = exp(log_decay) S;    S = S + k (beta (v - Sᵀ k))ᵀ;    output = Sᵀ q

Within a chunk the differences `u` of all tokens solve a triangular system, for each reads what those before it
wrote: `(I + A) u = beta (v - exp(c) Sᵀ k)`, `A[i, j] = beta[i] exp(c[i] - c[j]) k[i] · k[j]` for `j < i`, with `c`
the sums of `log_decay` since the chunk began. So a chunk takes a few matrix products, and the memory goes on from
chunk to chunk.

Both forms compute in float32 for 16-bit inputs.

Source: Yang et al. (arXiv 2412.06464); the triangular system: Yang et al. (arXiv 2406.06484).
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_attn.functional.chunks import from_chunks, in_chunks
from jax_attn.functional.dtypes import accumulator
from jax_attn.functional.sharding import in_auto_axes
from jax_attn.functional.unit_lower import inverse_of_unit_lower


def empty_memory(batch: int, heads: int, key_dim: int, value_dim: int, dtype: jnp.dtype) -> Array:
    """A memory that holds nothing, `(batch, heads, key_dim, value_dim)`, in float32 at least."""
    return jnp.zeros((batch, heads, key_dim, value_dim), accumulator(dtype))


def recurrent_gated_delta_rule(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B T N H"],
    value: Float[Array, "B T N Hv"],
    log_decay: Float[Array, "B T N"],
    beta: Float[Array, "B T N"],
    memory: Float[Array, "B N H Hv"] | None = None,
) -> tuple[Float[Array, "B T N Hv"], Float[Array, "B N H Hv"]]:
    """The rule as it stands, token by token.

    Args:
        query: as it is to be read: normalised and scaled.
        key: normalised to length 1, or the memory may grow without bound.
        value: what is to be remembered.
        log_decay: at most 0; the memory is multiplied by its exponential.
        beta: between 0 and 1, the part of the difference that is written.
        memory: what came before; None is nothing.

    Returns:
        the output, and the memory after the last token.
    """

    def step(memory: Array, token: tuple[Array, ...]) -> tuple[Array, Array]:
        q, k, v, g, b = token
        memory = memory * jnp.exp(g)[..., None, None]
        difference = (v - jnp.einsum("bnh,bnhv->bnv", k, memory)) * b[..., None]
        memory = memory + k[..., :, None] * difference[..., None, :]
        return memory, jnp.einsum("bnh,bnhv->bnv", q, memory)

    def run(operands: tuple[Array, ...]) -> tuple[Array, Array]:
        tokens, memory = _widened(*operands)
        memory, output = jax.lax.scan(step, memory, tuple(x.swapaxes(0, 1) for x in tokens))
        return output.swapaxes(0, 1).astype(value.dtype), memory

    operands = (query, key, value, log_decay, beta, memory)
    output, memory = in_auto_axes(run, operands, value, ("BTNV", "BNHV"))
    return output, memory


def chunked_gated_delta_rule(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B T N H"],
    value: Float[Array, "B T N Hv"],
    log_decay: Float[Array, "B T N"],
    beta: Float[Array, "B T N"],
    memory: Float[Array, "B N H Hv"] | None = None,
    chunk_size: int = 64,
) -> tuple[Float[Array, "B T N Hv"], Float[Array, "B N H Hv"]]:
    """What `recurrent_gated_delta_rule` computes, `chunk_size` tokens at once."""
    operands = (query, key, value, log_decay, beta, memory)
    run = partial(_chunked, chunk_size=chunk_size)
    output, memory = in_auto_axes(lambda given: run(*given), operands, value, ("BTNV", "BNHV"))
    return output, memory


def _chunked(
    query: Array,
    key: Array,
    value: Array,
    log_decay: Array,
    beta: Array,
    memory: Array | None,
    chunk_size: int,
) -> tuple[Array, Array]:
    operands, memory = _widened(query, key, value, log_decay, beta, memory)
    tokens = key.shape[1]
    size = max(1, min(chunk_size, tokens))
    # What is filled in at the end has a key and a decay of 0: it leaves the memory as it is.
    chunks = (in_chunks(x, size).swapaxes(2, 3) for x in operands)  # (C, B, N, size, ...)
    q, k, v, g, b = chunks

    since = jnp.cumsum(g, axis=-1)  # log of the decay since the chunk began
    earlier = jnp.tril(jnp.ones((size, size), bool))
    between = jnp.where(earlier, since[..., :, None] - since[..., None, :], 0)
    decays = jnp.where(earlier, jnp.exp(between), 0)
    reads = jnp.einsum("cbnih,cbnjh->cbnij", q, k) * decays
    system = jnp.einsum("cbnih,cbnjh->cbnij", k * b[..., None], k) * decays
    solve = inverse_of_unit_lower(system)
    faded = jnp.exp(since)[..., None]
    written, of_memory = solve @ (v * b[..., None]), solve @ (k * b[..., None] * faded)
    until_end = jnp.exp(since[..., -1:] - since)[..., None]

    def step(memory: Array, chunk: tuple[Array, ...]) -> tuple[Array, Array]:
        q, reads, written, of_memory, k, fade = chunk
        difference = written - of_memory @ memory
        return fade * memory + k.mT @ difference, q @ memory + reads @ difference

    through = (q * faded, reads, written, of_memory, k * until_end, faded[..., -1:, :])
    memory, output = jax.lax.scan(step, memory, through)
    return from_chunks(output.swapaxes(2, 3), tokens).astype(value.dtype), memory


def _widened(
    query: Array, key: Array, value: Array, log_decay: Array, beta: Array, memory: Array | None
) -> tuple[tuple[Array, ...], Array]:
    """The operands in the dtype of sums, and the memory to begin with, which varies over devices as they do."""
    wide = accumulator(value.dtype)
    operands = tuple(x.astype(wide) for x in (query, key, value, log_decay, beta))
    _, k, v, *_ = (x[:, :0] for x in operands)
    nothing = jnp.einsum("btnh,btnv->bnhv", k, v)
    return operands, nothing if memory is None else memory.astype(wide) + nothing
