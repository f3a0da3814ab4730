"""A model in training: its state, and one compiled step."""

from functools import partial
from typing import Any

import jax
import optax
from flax import nnx

from jax_attn.training.task import Batch, Task


class Trainer:
    """A Flax module and its optimizer; `state` is all that changes, as one pytree of arrays.

    Args:
        model: the module; its arrays are given away to the first step.
        optimizer: of optax.
        task: what the loss is.
    """

    def __init__(self, model: nnx.Module, optimizer: optax.GradientTransformation, task: Task):
        self._graphdef, self.state = nnx.split((model, nnx.Optimizer(model, optimizer, wrt=nnx.Param)))
        self._task = task

    @property
    def model(self) -> Any:
        """The module as it stands, in evaluation mode."""
        model, _ = nnx.merge(self._graphdef, self.state)
        model.eval()
        return model

    def step(self, batch: Batch) -> jax.Array:
        """Update the state; return the mean loss of the batch before that."""
        self.state, loss = self._update(self.state, batch)
        return loss

    @partial(jax.jit, static_argnums=0, donate_argnums=1)
    def _update(self, state: Any, batch: Batch) -> tuple[Any, jax.Array]:
        model, optimizer = nnx.merge(self._graphdef, state)

        def mean(model: Any) -> jax.Array:
            total, weight = self._task.loss(model, batch)
            return total / weight

        loss, gradients = nnx.value_and_grad(mean)(model)
        optimizer.update(model, gradients)
        return nnx.state((model, optimizer)), loss

    @partial(jax.jit, static_argnums=(0, 2))
    def _evaluate(self, state: Any, function: Any, batch: Batch) -> Any:
        model, _ = nnx.merge(self._graphdef, state)
        model.eval()
        return function(model, batch)

    def evaluate(self, function: Any, batch: Batch) -> Any:
        """`function(model, batch)`, compiled, of the model in evaluation mode."""
        return self._evaluate(self.state, function, batch)
