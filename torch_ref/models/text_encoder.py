"""An encoder of texts: token ids to a vector for each token, and one for the text."""

from typing import Any, NamedTuple

from torch import Tensor, nn


class EncoderOutput(NamedTuple):
    """What an encoder returns: a vector for each token, and one for each sequence (None without a pooler)."""

    last_hidden_state: Tensor
    pooler_output: Tensor | None


class TextEncoder(nn.Module):
    """`pooler(encoder(embeddings(input_ids, token_type_ids), attention_mask))`, of parts that are given built.

    See `jax_attn.models.text_encoder.TextEncoder`, its twin, for the arguments.

    Source: Devlin et al. (arXiv 1810.04805), section 3.
    """

    def __init__(self, embeddings: Any, encoder: Any, pooler: Any = None):
        super().__init__()
        self.embeddings = embeddings
        self.encoder = encoder
        self.pooler = pooler

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> EncoderOutput:
        """`(b, t)` or `(t,)` ids, a mask of 1 or True where a token stands, and segments, to both outputs."""
        mask = None if attention_mask is None else attention_mask.bool()
        hidden = self.encoder(self.embeddings(input_ids, token_type_ids), mask)
        return EncoderOutput(hidden, None if self.pooler is None else self.pooler(hidden))
