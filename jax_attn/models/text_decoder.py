"""A decoder of texts: each token's vector depends on the tokens before it."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax.core import Tracer
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Integer

from jax_attn.functional.checks import checked, require_at_most
from jax_attn.models.token_mask import segment_positions, token_mask
from jax_attn.nn.attention.cache import next_positions, require_cache


class TextCache(NamedTuple):
    """What a decoder keeps of the tokens it has seen: a plain value.

    Attributes:
        layers: the cache of the stack.
        length: `(b,)`, how many tokens of each sequence were seen, padding not among them.
    """

    layers: Any
    length: Array


class TextDecoder(nnx.Module):
    """`decoder(embeddings(input_ids))`, of parts that are given built: a causal model without its head.

    Tokens are counted without padding, wherever that stands, so a sequence gets what it would get alone.

    Parameters: those of its parts, under `embeddings` and `decoder`.

    Args:
        embeddings: ids to vectors, as `Embeddings`.
        decoder: the layers, causal, as `Decoder` or a `Stack`, with the norm behind them.
        rngs: taken as every module takes them; nothing is drawn.

    Raises:
        ValueError: ids that are not integers or not `(b, t)`, a mask that is neither boolean nor integer, a mask or
            segments of another shape than the ids, segments beside a cache, a cache of another kind, or more tokens
            than positions (under `jit` it is not known how many are in a cache).

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners".
    """

    @checked
    def __init__(self, embeddings: Any, decoder: Any, *, rngs: nnx.Rngs | None = None):
        self.embeddings = embeddings
        self.decoder = decoder

    def __call__(
        self,
        input_ids: Integer[Array, "*b t"],
        attention_mask: Bool[Array, "*b t"] | Integer[Array, "*b t"] | None = None,
        *,
        segment_ids: Integer[Array, "*b t"] | None = None,
        cache: TextCache | None = None,
        context: Float[Array, "*b s k"] | None = None,
        context_mask: Bool[Array, "*b s"] | None = None,
    ) -> Any:
        """Read the tokens.

        Args:
            input_ids: `(b, t)` or `(t,)`; with a cache `(b, t)`, those that come next.
            attention_mask: which of them are tokens and no padding, True or 1; None is all.
            segment_ids: where several texts are packed into a row, one behind the other, which of them a token is
                of; each gets what it would get alone. There is no cache then, and padding may be a segment too.
            cache: of `init_cache`.
            context: what the layers attend to beside the tokens, where they do; not given with a cache, which
                holds it.
            context_mask: which of its vectors may be seen, with a cache too; None is all.

        Returns:
            `(b, t, d)`; with a cache, a tuple of that and the new cache.
        """
        real = None if attention_mask is None else token_mask(attention_mask, input_ids.shape)
        given = {"context": context, "context_mask": context_mask, "segment_ids": segment_ids}
        if segment_ids is not None and cache is not None:
            raise ValueError("segment_ids must be None where a cache is given")
        options = {name: array for name, array in given.items() if array is not None}
        if cache is None:
            if segment_ids is not None:
                positions = segment_positions(segment_ids, input_ids.shape)
            else:
                positions = None if real is None else jnp.where(real, jnp.cumsum(real, axis=-1) - 1, -1)
            return self.decoder(self.embeddings(input_ids, positions=positions), mask=real, **options)
        require_cache(cache, TextCache)
        positions = next_positions(cache.length, input_ids.shape[1], real)
        most = getattr(self.embeddings, "max_positions", None)
        if most is not None and positions.size and not isinstance(positions, Tracer):
            require_at_most("the number of tokens", int(positions.max()) + 1, "max_positions", most)
        x = self.embeddings(input_ids, positions=positions)
        hidden, layers = self.decoder(x, mask=real, cache=cache.layers, **options)
        seen = positions.max(axis=1, initial=-1) + 1
        return hidden, TextCache(layers, jnp.maximum(cache.length, seen.astype(cache.length.dtype)))

    def init_cache(
        self,
        batch: int,
        length: int,
        dtype: DTypeLike | None = None,
        context: Float[Array, "b s k"] | None = None,
    ) -> TextCache:
        """An empty cache for `length` tokens of `batch` sequences, that attend to `context` where there is one.

        Raises:
            ValueError: the attention cannot be computed token by token, and why.
        """
        layers = self.decoder.init_cache(batch, length, context, dtype=dtype)
        return TextCache(layers, jnp.zeros(batch, jnp.int32))

    def reorder_cache(self, cache: TextCache, rows: Int[Array, "b"]) -> TextCache:
        """The cache of the sequences `rows`, in that order: of the beams that go on."""
        return TextCache(self.decoder.reorder_cache(cache.layers, rows), cache.length[rows])
