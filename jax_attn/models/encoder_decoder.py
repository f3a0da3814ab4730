"""An encoder, and a decoder that attends to what it read: one sequence to another."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int, Integer

from jax_attn.functional.checks import checked
from jax_attn.models.text_decoder import TextCache
from jax_attn.models.token_mask import token_mask


class EncoderDecoderCache(NamedTuple):
    """What is kept while the second sequence is written: a plain value.

    Attributes:
        decoder: what the decoder keeps of the tokens it has seen, and of the context.
        context_mask: `(b, s)`, which vectors of the context may be seen; None is all.
    """

    decoder: TextCache
    context_mask: Array | None


class EncoderDecoder(nnx.Module):
    """`decoder(decoder_input_ids, context=encoder(inputs))`, of parts that are given built, without a head.

    Token by token, in chunks of any size::

        context = model.encode(inputs, attention_mask)
        cache = model.init_cache(batch, length, context, attention_mask)
        hidden, cache = model.decode(ids, cache=cache)

    Parameters: those of its parts, under `encoder` and `decoder`.

    Args:
        encoder: the first sequence to vectors, as `TextEncoder` or `AudioEncoder`; with `shared_embeddings` layers
            alone, as a `Stack`.
        decoder: ids and those vectors to vectors, as a `TextDecoder` whose layers attend to a context.
        shared_embeddings: whether the decoder's embeddings are those of the first sequence too, as in 2017 and T5.
        rngs: taken as every module takes them; nothing is drawn.

    Raises:
        ValueError: as in the parts.

    Source: Vaswani et al. (arXiv 1706.03762), section 3.
    """

    @checked
    def __init__(
        self, encoder: Any, decoder: Any, shared_embeddings: bool = False, *, rngs: nnx.Rngs | None = None
    ):
        self.encoder = encoder
        self.decoder = decoder
        self.shared_embeddings = shared_embeddings

    @property
    def embeddings(self) -> Any:
        """Those of the decoder, to whose table a head may be tied."""
        return self.decoder.embeddings

    def __call__(
        self,
        inputs: Array,
        decoder_input_ids: Integer[Array, "*b t"],
        attention_mask: Bool[Array, "*b s"] | Integer[Array, "*b s"] | None = None,
        decoder_attention_mask: Bool[Array, "*b t"] | Integer[Array, "*b t"] | None = None,
    ) -> Float[Array, "*b t d"]:
        """Read both sequences, the second up to each of its tokens.

        Args:
            inputs: the first: ids `(b, s)`, or what else the encoder takes, such as a spectrogram `(b, frames, f)`.
            decoder_input_ids: `(b, t)`, the second; in training the labels, `shifted_right`.
            attention_mask: `(b, s)`, which of the inputs are no padding, True or 1; None is all.
            decoder_attention_mask: `(b, t)`, likewise.

        Returns:
            `(b, t, d)`, a vector for each token of the second. Without `b` where the inputs have none.
        """
        context = self.encode(inputs, attention_mask)
        return self.decoder(
            decoder_input_ids,
            decoder_attention_mask,
            context=context,
            context_mask=_seen(attention_mask, context),
        )

    def encode(
        self, inputs: Array, attention_mask: Bool[Array, "*b s"] | Integer[Array, "*b s"] | None = None
    ) -> Float[Array, "*b s k"]:
        """The vectors of the first sequence, to which the decoder attends."""
        if not self.shared_embeddings:
            return self.encoder(inputs, attention_mask).last_hidden_state
        mask = None if attention_mask is None else token_mask(attention_mask, inputs.shape)
        return self.encoder(self.embeddings(inputs), mask)

    def decode(
        self, input_ids: Integer[Array, "b t"], attention_mask: Any = None, *, cache: EncoderDecoderCache
    ) -> tuple[Float[Array, "b t d"], EncoderDecoderCache]:
        """The vectors `(b, t, d)` of the tokens that come next, and the new cache."""
        hidden, decoder = self.decoder(
            input_ids, attention_mask, cache=cache.decoder, context_mask=cache.context_mask
        )
        return hidden, EncoderDecoderCache(decoder, cache.context_mask)

    def init_cache(
        self,
        batch: int,
        length: int,
        context: Float[Array, "b s k"],
        context_mask: Bool[Array, "b s"] | Integer[Array, "b s"] | None = None,
        dtype: DTypeLike | None = None,
    ) -> EncoderDecoderCache:
        """A cache for `length` tokens of `batch` sequences that attend to `context`, of `encode`.

        Args:
            batch: number of sequences.
            length: the most tokens that they will have.
            context: what they attend to.
            context_mask: the `attention_mask` that it was encoded with.
            dtype: dtype of keys and values; None is that of the computation.

        Raises:
            ValueError: the context is of another batch, or the mask does not fit it.
        """
        if len(context) != batch:
            raise ValueError(f"context must have the batch size {batch}, got {len(context)}")
        decoder = self.decoder.init_cache(batch, length, dtype=dtype, context=context)
        return EncoderDecoderCache(decoder, _seen(context_mask, context))

    def reorder_cache(self, cache: EncoderDecoderCache, rows: Int[Array, "r"]) -> EncoderDecoderCache:
        """The cache of the sequences `rows`, in that order: of the beams that go on."""
        mask = None if cache.context_mask is None else cache.context_mask[rows]
        return EncoderDecoderCache(self.decoder.reorder_cache(cache.decoder, rows), mask)


def shifted_right(
    labels: Integer[Array, "*b t"], decoder_start_token_id: int, pad_token_id: int = 0
) -> Integer[Array, "*b t"]:
    """What a decoder reads to predict `labels`: the start token, then all of them but the last.

    Args:
        labels: `(b, t)` or `(t,)`; -100, which a loss passes over, becomes padding.
        decoder_start_token_id: the token that each sequence starts with, as `config.json` names it.
        pad_token_id: the token of padding.
    """
    start = jnp.full_like(labels[..., :1], decoder_start_token_id)
    shifted = jnp.concatenate([start, labels[..., :-1]], axis=-1)
    return jnp.where(shifted == -100, pad_token_id, shifted)


def _seen(attention_mask: Any, context: Array) -> Array | None:
    """The mask of the inputs, as one of the context."""
    return None if attention_mask is None else token_mask(attention_mask, context.shape[:-1])
