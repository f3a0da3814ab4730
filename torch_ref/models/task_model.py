"""A model with what a task puts on top of it."""

from typing import Any

from torch import Tensor, nn

from torch_ref.checks import checked


class TaskModel(nn.Module):
    """`head(model(...))`, of parts that are given built: a classifier of texts, tokens or images, a masked LM.

    See `jax_attn.models.task_model.TaskModel`, its twin, for the arguments.

    Source: Devlin et al. (arXiv 1810.04805), section 3 and figure 4.
    """

    @checked(reads=("tokens", "text", "tokens_and_table", "tokens_and_mask"))
    def __init__(self, model: Any, head: Any, reads: str = "tokens", padding_idx: int | None = None):
        super().__init__()
        self.model = model
        self.head = head
        self.reads = reads
        self.padding_idx = padding_idx

    def forward(self, *arrays: Any, **named: Any) -> Any:
        """What the head gives: logits, in a shape that the head says. Called as the model."""
        output = self.model(*arrays, **named)
        if self.reads == "text":
            return self.head(output.pooler_output)
        tokens = getattr(output, "last_hidden_state", output)
        if self.reads == "tokens":
            return self.head(tokens)
        if self.reads == "tokens_and_mask":
            return self.head(tokens, self._real(*arrays, **named))
        return self.head(tokens, self.model.embeddings.token.weight)

    def _real(self, input_ids: Tensor, attention_mask: Tensor | None = None, **named: Any) -> Tensor | None:
        """Which tokens are no padding; None is all."""
        if self.padding_idx is not None:
            return input_ids != self.padding_idx
        return None if attention_mask is None else attention_mask.bool()
