"""An encoder-decoder with a head: each token of the second sequence to scores of the next."""

from typing import Any

from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Integer

from jax_attn.models.causal_lm import CausalLM
from jax_attn.models.encoder_decoder import EncoderDecoderCache


class Seq2SeqLM(CausalLM):
    """`head(model(inputs, decoder_input_ids))`, of parts that are given built: T5, Whisper, a translator.

    With `generate`, which is given the tokens that the texts start with::

        context = model.encode(inputs, attention_mask)
        cache = model.init_cache(batch, length, context, attention_mask)
        generate(model, jnp.full((batch, 1), start), cache=cache, max_new_tokens=length)

    Parameters: those of its parts, under `model` and `head`.

    Args:
        model: as `EncoderDecoder`.
        head: vectors to logits, as `CausalLMHead`; or a `TiedHead`, which gets the table of the decoder's
            embeddings.
        rngs: taken as every module takes them; nothing is drawn.

    Raises:
        ValueError: as in the parts.

    Source: Vaswani et al. (arXiv 1706.03762), section 3.
    """

    def __call__(  # ty: ignore[incompatible-method-override]
        self,
        inputs: Array,
        decoder_input_ids: Integer[Array, "*b t"],
        attention_mask: Bool[Array, "*b s"] | Integer[Array, "*b s"] | None = None,
        decoder_attention_mask: Bool[Array, "*b t"] | Integer[Array, "*b t"] | None = None,
    ) -> Float[Array, "*b t v"]:
        """The logits `(b, t, vocab_size)`; called as `EncoderDecoder`."""
        return self.logits(self.model(inputs, decoder_input_ids, attention_mask, decoder_attention_mask))

    def encode(
        self, inputs: Array, attention_mask: Bool[Array, "*b s"] | Integer[Array, "*b s"] | None = None
    ) -> Float[Array, "*b s k"]:
        """The vectors of the first sequence, to which the decoder attends."""
        return self.model.encode(inputs, attention_mask)

    def decode(  # ty: ignore[incompatible-method-override]
        self, input_ids: Integer[Array, "b t"], attention_mask: Any = None, *, cache: EncoderDecoderCache
    ) -> tuple[Array, EncoderDecoderCache]:
        """The vectors `(b, t, d)` of these tokens, of which `logits` makes scores, and the new cache."""
        return self.model.decode(input_ids, attention_mask, cache=cache)

    def init_cache(  # ty: ignore[incompatible-method-override]
        self,
        batch: int,
        length: int,
        context: Float[Array, "b s k"],
        context_mask: Bool[Array, "b s"] | Integer[Array, "b s"] | None = None,
        dtype: DTypeLike | None = None,
    ) -> EncoderDecoderCache:
        """A cache for `length` tokens of `batch` sequences that attend to `context`, as in `EncoderDecoder`."""
        return self.model.init_cache(batch, length, context, context_mask, dtype)
