"""An encoder of texts: token ids to a vector for each token, and one for the text."""

from typing import Any, NamedTuple

from flax import nnx
from jaxtyping import Array, Bool, Integer

from jax_attn.models.token_mask import token_mask


class EncoderOutput(NamedTuple):
    """What an encoder returns.

    Attributes:
        last_hidden_state: `(b, t, d)`, one vector for each token.
        pooler_output: `(b, d)`, one vector for each sequence; None without a pooling layer.
    """

    last_hidden_state: Array
    pooler_output: Array | None


class TextEncoder(nnx.Module):
    """`pooler(encoder(embeddings(input_ids, token_type_ids), attention_mask))`, of parts that are given built.

    Parameters: those of its parts, under `embeddings`, `encoder` and `pooler`.

    Args:
        embeddings: ids to vectors, as `Embeddings`.
        encoder: the layers, as `Encoder` or a `Stack`: called as `encoder(x, mask)`.
        pooler: the tokens' vectors to that of the text, as `Pooler`; None is none.
        rngs: taken as every module takes them; nothing is drawn.

    Raises:
        ValueError: ids that are not integers or not `(b, t)`, or a mask that is neither boolean nor integer or has
            another shape than the ids.

    Source: Devlin et al. (arXiv 1810.04805), section 3.
    """

    def __init__(self, embeddings: Any, encoder: Any, pooler: Any = None, *, rngs: nnx.Rngs | None = None):
        self.embeddings = embeddings
        self.encoder = encoder
        self.pooler = pooler

    def __call__(
        self,
        input_ids: Integer[Array, "*b t"],
        attention_mask: Bool[Array, "*b t"] | Integer[Array, "*b t"] | None = None,
        token_type_ids: Integer[Array, "*b t"] | None = None,
    ) -> EncoderOutput:
        """Read the tokens.

        Args:
            input_ids: `(b, t)` or `(t,)`.
            attention_mask: which tokens may be attended to: True or 1, as tokenizers give it; None is all.
            token_type_ids: the segment of each token; None is 0 throughout.
        """
        mask = None if attention_mask is None else token_mask(attention_mask, input_ids.shape)
        hidden = self.encoder(self.embeddings(input_ids, token_type_ids), mask)
        return EncoderOutput(hidden, None if self.pooler is None else self.pooler(hidden))
