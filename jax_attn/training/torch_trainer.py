"""The torch twin in training, with the interface of `Trainer`."""

from collections.abc import Callable
from typing import Any

from jax_attn.training.task import Batch, Sum, Task
from jax_attn.training.trainer import Step, in_parts


class TorchTrainer:
    """A torch module and AdamW, whose learning rate is `rate(step)`; the other arguments are those of `Trainer`.

    Args:
        model: the module, in the dtype of its parameters.
        rate: the learning rate of a step, counted from 0.
        task: what the loss is.
        weight_decay: of AdamW; vectors (biases, scales of norms) have none.
        betas: of AdamW.
        accumulate: see `Trainer`.
        max_grad_norm: see `Trainer`.
        ema: see `Trainer`.
        dropout: see `Trainer`.
        autocast: whether the step computes in bfloat16, with parameters as they are.
    """

    def __init__(
        self,
        model: Any,
        rate: Callable[[int], Any],
        task: Task,
        *,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
        accumulate: int = 1,
        max_grad_norm: float | None = None,
        ema: float | None = None,
        dropout: bool = True,
        autocast: bool = False,
    ):
        import torch

        if task.torch_loss is None:
            raise ValueError("the torch twin needs a torch_loss: this task has none")
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._trained = model.to(self._device)
        self._task, self._accumulate, self._max_grad_norm = task, accumulate, max_grad_norm
        self._dropout, self._autocast, self._steps = dropout, autocast, 0
        parameters = list(model.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        # The schedule gives the rate itself, as a factor of 1.
        self._optimizer = torch.optim.AdamW(groups, lr=1.0, betas=betas)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, lambda step: float(rate(step)))
        self._ema, self._mean = ema, None
        if ema is not None:
            self._mean = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=self._average)
            self._mean.update_parameters(model)  # a copy, the first time

    @property
    def model(self) -> Any:
        """The module as it stands, in evaluation mode; of the running mean, where one is kept."""
        return (self._trained if self._mean is None else self._mean.module).eval()

    def step(self, batch: Batch) -> Step:
        """Update the parameters."""
        import torch

        self._trained.train(self._dropout)
        self._optimizer.zero_grad()
        total = weight = 0
        for part in self._parts(batch):
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
                part_total, part_weight = self._task.torch_loss(self._trained, part)  # ty: ignore
            part_total.backward()
            total, weight = total + part_total.detach(), weight + part_weight
        gradients = [p.grad for p in self._trained.parameters() if p.grad is not None]
        torch._foreach_mul_(gradients, 1.0 / float(weight))
        norm = torch.nn.utils.get_total_norm(gradients)
        if self._max_grad_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self._trained.parameters(), self._max_grad_norm, norm)
        self._optimizer.step()
        self._schedule.step()
        self._steps += 1
        if self._mean is not None:
            self._mean.update_parameters(self._trained)
        return Step(total / weight, norm)

    def evaluate(self, function: Callable[[Any, Batch], Any], batch: Batch) -> Any:
        """`function(model, batch)`, without gradients, of `self.model` and a batch of tensors."""
        import torch

        with torch.no_grad(), torch.autocast(self._device.type, torch.bfloat16, enabled=self._autocast):
            return function(self.model, self._tensors(batch))

    def figures(self, batch: Batch) -> dict[str, Sum]:
        """The loss and the metrics of a held-out batch."""
        return self.evaluate(self._task.torch_figures, batch)

    def _average(self, means: Any, parameters: Any, _: Any) -> None:
        import torch

        decay = min(self._ema, (1.0 + self._steps) / (10.0 + self._steps))  # ty: ignore
        torch._foreach_lerp_(means, parameters, 1.0 - decay)

    def _parts(self, batch: Batch) -> list[dict[str, Any]]:
        if self._accumulate == 1:
            return [self._tensors(batch)]
        parts = {name: in_parts(self._accumulate, value) for name, value in batch.items()}
        return [
            self._tensors({name: value[k] for name, value in parts.items()}) for k in range(self._accumulate)
        ]

    def _tensors(self, batch: Batch) -> dict[str, Any]:
        """The batch as tensors; floats in the dtype of the parameters, as torch does not mix them."""
        import torch

        dtype = next(self._trained.parameters()).dtype
        found = {name: torch.tensor(value, device=self._device) for name, value in batch.items()}
        return {
            name: value.to(dtype) if value.is_floating_point() else value for name, value in found.items()
        }
