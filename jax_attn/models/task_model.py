"""A model with what a task puts on top of it."""

from typing import Any, ClassVar

from flax import nnx
from jaxtyping import Array

from jax_attn.functional.checks import checked, require_known
from jax_attn.functional.logical_axes import LogicalAxes
from jax_attn.models.token_mask import token_mask

READS = ("tokens", "text", "tokens_and_table", "tokens_and_mask")


class TaskModel(nnx.Module):
    """`head(model(...))`, of parts that are given built: a classifier of texts, tokens or images, a masked LM.

    Parameters: those of its parts, under `model` and `head`.

    Args:
        model: what returns `last_hidden_state` and `pooler_output`, as `TextEncoder`, or vectors, as `TextDecoder`.
        head: what a task makes of it, from `jax_attn.nn.layers`.
        reads: what the head is called with: the vectors of the "tokens"; that of the "text", which the pooler made;
            "tokens_and_table", the embeddings' own, to which a masked LM's scores are tied; or "tokens_and_mask",
            which of them are no padding.
        padding_idx: the token of padding, for that mask; None is that the attention mask tells.
        rngs: taken as every module takes them; nothing is drawn.

    Raises:
        ValueError: `reads` is not known, or is "text" and the model has no pooler, or rows are packed.

    Source: Devlin et al. (arXiv 1810.04805), section 3 and figure 4.
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "head": ("embed", "classes"),
    }

    @checked
    def __init__(
        self,
        model: Any,
        head: Any,
        reads: str = "tokens",
        padding_idx: int | None = None,
        *,
        rngs: nnx.Rngs | None = None,
    ):
        require_known("reads", reads, READS)
        if reads == "text" and getattr(model, "pooler", ...) is None:
            raise ValueError('reads="text" needs a model with a pooler, got one without')
        self.model = model
        self.head = head
        self.reads = reads
        self.padding_idx = padding_idx

    def __call__(self, *arrays: Any, **named: Any) -> Any:
        """What the head gives: logits, in a shape that the head says. Called as the model."""
        if self.reads == "text" and named.get("segment_ids") is not None:
            raise ValueError('segment_ids must be None with reads="text": a packed row is no one text')
        output = self.model(*arrays, **named)
        if self.reads == "text":
            return self.head(output.pooler_output)
        tokens = getattr(output, "last_hidden_state", output)
        if self.reads == "tokens":
            return self.head(tokens)
        if self.reads == "tokens_and_mask":
            return self.head(tokens, self._real(*arrays, **named))
        return self.head(tokens, self.model.embeddings.token.embedding[...])

    def _real(self, input_ids: Array, attention_mask: Array | None = None, **named: Any) -> Array | None:
        """Which tokens are no padding; None is all."""
        if self.padding_idx is not None:
            return input_ids != self.padding_idx
        return None if attention_mask is None else token_mask(attention_mask, input_ids.shape)
