"""An encoder of texts: token ids to a vector for each token, and one for the text."""

from typing import Any, NamedTuple

from torch import Tensor, nn

from torch_ref.checks import checked
from torch_ref.models.text_decoder import segment_positions


class EncoderOutput(NamedTuple):
    """What an encoder returns: vectors of tokens, and of sequences (None without a pooler, or of packed rows)."""

    last_hidden_state: Tensor
    pooler_output: Tensor | None


class TextEncoder(nn.Module):
    """`pooler(encoder(embeddings(input_ids, token_type_ids), attention_mask))`, of parts that are given built.

    See `jax_attn.models.text_encoder.TextEncoder`, its twin, for the arguments.

    Source: Devlin et al. (arXiv 1810.04805), section 3.
    """

    @checked()
    def __init__(self, embeddings: Any, encoder: Any, pooler: Any = None):
        super().__init__()
        self.embeddings = embeddings
        self.encoder = encoder
        self.pooler = pooler

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        *,
        segment_ids: Tensor | None = None,
    ) -> EncoderOutput:
        """`(b, t)` or `(t,)` ids, a mask of 1 or True where a token stands, and their types, to both outputs.

        Segments are texts that are packed into one row.
        """
        mask = None if attention_mask is None else attention_mask.bool()
        if segment_ids is not None:
            x = self.embeddings(input_ids, token_type_ids, segment_positions(segment_ids))
            return EncoderOutput(self.encoder(x, mask, segment_ids=segment_ids), None)
        hidden = self.encoder(self.embeddings(input_ids, token_type_ids), mask)
        return EncoderOutput(hidden, None if self.pooler is None else self.pooler(hidden))
