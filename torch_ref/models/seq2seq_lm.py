"""An encoder-decoder with a head: each token of the second sequence to scores of the next."""

from typing import Any

from torch import Tensor

from torch_ref.models.causal_lm import CausalLM


class Seq2SeqLM(CausalLM):
    """`head(model(inputs, decoder_input_ids))`, of parts that are given built: T5, Whisper, a translator.

    See `jax_attn.models.seq2seq_lm.Seq2SeqLM`, its twin, for the arguments.

    Source: Vaswani et al. (arXiv 1706.03762), section 3.
    """

    def forward(  # ty: ignore[incompatible-method-override]
        self,
        inputs: Tensor,
        decoder_input_ids: Tensor,
        attention_mask: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
    ) -> Tensor:
        """The logits `(b, t, vocab_size)`; called as `EncoderDecoder`."""
        return self.logits(self.model(inputs, decoder_input_ids, attention_mask, decoder_attention_mask))

    def encode(self, inputs: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The vectors of the first sequence, to which the decoder attends."""
        return self.model.encode(inputs, attention_mask)

    def decode(self, input_ids: Tensor, *, cache: Any) -> tuple[Tensor, Any]:
        """The vectors of these tokens, of which `logits` makes scores, and the new cache."""
        return self.model.decode(input_ids, cache=cache)

    def init_cache(  # ty: ignore[incompatible-method-override]
        self, batch: int, context: Tensor, context_mask: Tensor | None = None
    ) -> Any:
        """What is kept of no tokens that attend to `context`."""
        return self.model.init_cache(batch, context, context_mask)
