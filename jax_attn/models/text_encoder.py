"""An encoder of texts: token ids to a vector for each token, and one for the text."""

from typing import Any, NamedTuple

from flax import nnx
from jaxtyping import Array, Bool, Integer

from jax_attn.functional.checks import checked
from jax_attn.models.token_mask import segment_positions, token_mask


class EncoderOutput(NamedTuple):
    """What an encoder returns.

    Attributes:
        last_hidden_state: `(b, t, d)`, one vector for each token.
        pooler_output: `(b, d)`, one vector for each sequence; None without a pooling layer, or of packed rows.
    """

    last_hidden_state: Array
    pooler_output: Array | None


class TextEncoder(nnx.Module):
    """`pooler(encoder(embeddings(input_ids, token_type_ids), attention_mask))`, of parts that are given built.

    Parameters: those of its parts, under `embeddings`, `encoder` and `pooler`.

    Args:
        embeddings: ids to vectors, as `Embeddings`.
        encoder: the layers, as `Encoder` or a `Stack`: called as `encoder(x, mask)`, and with `segment_ids=` where
            they are given.
        pooler: the tokens' vectors to that of the text, as `Pooler`; None is none.
        rngs: taken as every module takes them; nothing is drawn.

    Raises:
        ValueError: ids that are not integers or not `(b, t)`, or a mask that is neither boolean nor integer, or a
            mask or segments of another shape than the ids.

    Source: Devlin et al. (arXiv 1810.04805), section 3.
    """

    @checked
    def __init__(self, embeddings: Any, encoder: Any, pooler: Any = None, *, rngs: nnx.Rngs | None = None):
        self.embeddings = embeddings
        self.encoder = encoder
        self.pooler = pooler

    def __call__(
        self,
        input_ids: Integer[Array, "*b t"],
        attention_mask: Bool[Array, "*b t"] | Integer[Array, "*b t"] | None = None,
        token_type_ids: Integer[Array, "*b t"] | None = None,
        *,
        segment_ids: Integer[Array, "*b t"] | None = None,
    ) -> EncoderOutput:
        """Read the tokens.

        Args:
            input_ids: `(b, t)` or `(t,)`.
            attention_mask: which tokens may be attended to: True or 1, as tokenizers give it; None is all.
            token_type_ids: the segment of each token; None is 0 throughout.
            segment_ids: where several texts are packed into a row, one behind the other, which of them a token is
                of; each gets what it would get alone, and the row has no `pooler_output`.
        """
        mask = None if attention_mask is None else token_mask(attention_mask, input_ids.shape)
        if segment_ids is not None:
            positions = segment_positions(segment_ids, input_ids.shape)
            x = self.embeddings(input_ids, token_type_ids, positions)
            return EncoderOutput(self.encoder(x, mask, segment_ids=segment_ids), None)
        hidden = self.encoder(self.embeddings(input_ids, token_type_ids), mask)
        return EncoderOutput(hidden, None if self.pooler is None else self.pooler(hidden))
