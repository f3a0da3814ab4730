"""An encoder, and a decoder that attends to what it read: one sequence to another."""

from typing import Any

from torch import Tensor, nn

from torch_ref.checks import checked


class EncoderDecoder(nn.Module):
    """`decoder(decoder_input_ids, context=encoder(inputs))`, of parts that are given built, without a head.

    See `jax_attn.models.encoder_decoder.EncoderDecoder`, its twin, for the arguments.

    Source: Vaswani et al. (arXiv 1706.03762), section 3.
    """

    @checked()
    def __init__(self, encoder: Any, decoder: Any, shared_embeddings: bool = False):
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.shared_embeddings = shared_embeddings

    @property
    def embeddings(self) -> Any:
        """Those of the decoder, to whose table a head may be tied."""
        return self.decoder.embeddings

    def forward(
        self,
        inputs: Tensor,
        decoder_input_ids: Tensor,
        attention_mask: Tensor | None = None,
        decoder_attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Inputs, ids `(b, t)` and masks of 1 or True where there is no padding, to vectors `(b, t, d)`."""
        return self.decoder(
            decoder_input_ids,
            decoder_attention_mask,
            context=self.encode(inputs, attention_mask),
            context_mask=None if attention_mask is None else attention_mask.bool(),
        )

    def encode(self, inputs: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """The vectors of the first sequence, to which the decoder attends."""
        if not self.shared_embeddings:
            return self.encoder(inputs, attention_mask).last_hidden_state
        mask = None if attention_mask is None else attention_mask.bool()
        return self.encoder(self.embeddings(inputs), mask)

    def decode(self, input_ids: Tensor, *, cache: Any) -> tuple[Tensor, Any]:
        """The vectors of the tokens that come next, and the new cache; here nothing is padded."""
        decoder, context, context_mask = cache
        hidden, decoder = self.decoder(input_ids, cache=decoder, context=context, context_mask=context_mask)
        return hidden, (decoder, context, context_mask)

    def init_cache(self, batch: int, context: Tensor, context_mask: Tensor | None = None) -> Any:
        """What is kept of no tokens that attend to `context`."""
        mask = None if context_mask is None else context_mask.bool()
        return self.decoder.init_cache(batch), context, mask
