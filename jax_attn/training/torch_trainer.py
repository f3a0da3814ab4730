"""The torch twin in training, with the interface of `Trainer`."""

from collections.abc import Callable
from typing import Any

from jax_attn.training.task import Batch, Task


class TorchTrainer:
    """A torch module and AdamW, whose learning rate is `rate(step)`."""

    def __init__(self, model: Any, rate: Callable[[int], Any], weight_decay: float, task: Task):
        import torch

        self.model, self._task = model, task
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=1.0, weight_decay=weight_decay)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, lambda step: float(rate(step)))

    def step(self, batch: Batch) -> Any:
        """Update the parameters; return the mean loss of the batch before that."""
        self.model.train()
        assert self._task.torch_loss is not None
        total, weight = self._task.torch_loss(self.model, tensors(batch))
        loss = total / weight
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()
        self._schedule.step()
        return loss.detach()

    def evaluate(self, function: Any, batch: Batch) -> Any:
        """`function(model, batch)`, without gradients, of the model in evaluation mode."""
        import torch

        self.model.eval()
        with torch.no_grad():
            return function(self.model, tensors(batch))


def tensors(batch: Batch) -> dict[str, Any]:
    """The batch as torch tensors."""
    import torch

    return {name: torch.tensor(value) for name, value in batch.items()}
