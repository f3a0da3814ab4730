"""A model with what a task puts on top of it."""

from typing import Any

from flax import nnx

from jax_attn.functional.checks import require_known

READS = ("tokens", "text", "tokens_and_table")


class TaskModel(nnx.Module):
    """`head(model(...))`, of parts that are given built: a classifier of texts, tokens or images, a masked LM.

    Parameters: those of its parts, under `model` and `head`.

    Args:
        model: what returns `last_hidden_state` and `pooler_output`, as `TextEncoder`.
        head: what a task makes of it, from `jax_attn.nn.layers`.
        reads: what the head is called with: the vectors of the "tokens"; that of the "text", which the pooler made;
            or "tokens_and_table", the embeddings' own, to which a masked LM's scores are tied.
        rngs: taken as every module takes them; nothing is drawn.

    Raises:
        ValueError: `reads` is not known.

    Source: Devlin et al. (arXiv 1810.04805), section 3 and figure 4.
    """

    def __init__(self, model: Any, head: Any, reads: str = "tokens", *, rngs: nnx.Rngs | None = None):
        require_known("reads", reads, READS)
        self.model = model
        self.head = head
        self.reads = reads

    def __call__(self, *arrays: Any, **named: Any) -> Any:
        """What the head gives: logits, in a shape that the head says. Called as the model."""
        output = self.model(*arrays, **named)
        if self.reads == "text":
            return self.head(output.pooler_output)
        if self.reads == "tokens":
            return self.head(output.last_hidden_state)
        return self.head(output.last_hidden_state, self.model.embeddings.token.embedding[...])
