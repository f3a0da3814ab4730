"""A model with what a task puts on top of it."""

from typing import Any

from torch import nn


class TaskModel(nn.Module):
    """`head(model(...))`, of parts that are given built: a classifier of texts, tokens or images, a masked LM.

    See `jax_attn.models.task_model.TaskModel`, its twin, for the arguments.

    Source: Devlin et al. (arXiv 1810.04805), section 3 and figure 4.
    """

    def __init__(self, model: Any, head: Any, reads: str = "tokens"):
        super().__init__()
        self.model = model
        self.head = head
        self.reads = reads

    def forward(self, *arrays: Any, **named: Any) -> Any:
        """What the head gives: logits, in a shape that the head says. Called as the model."""
        output = self.model(*arrays, **named)
        if self.reads == "text":
            return self.head(output.pooler_output)
        if self.reads == "tokens":
            return self.head(output.last_hidden_state)
        return self.head(output.last_hidden_state, self.model.embeddings.token.weight)
