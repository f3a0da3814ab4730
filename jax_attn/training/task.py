"""What is trained: a model, and what its loss and its figures are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import nnx

from jax_attn.models import Part

# A batch has one leading axis of rows: {"input_ids": (b, t), "mask": (b, t), "labels": (b,)}, for example.
Batch = Mapping[str, np.ndarray]
# What is summed, and over how many: the loss of a batch is their quotient, and so is that of many batches together.
Sum = tuple[Any, Any]


@dataclass(frozen=True)
class Task:
    """A model and its losses, in both frameworks.

    Args:
        model: the model as a description, built in either framework; or a Flax module that is there already, as
            `from_pretrained` gives it (then there is no twin unless `twin` is given).
        loss: `loss(model, batch) -> (sum, weight)`: the loss summed over the batch, and the number of tokens or
            texts in the sum. The trainer divides, so that accumulated and sharded batches weigh every token alike.
        torch_loss: the same with the torch twin and a batch of tensors; needed with `--framework torch` alone.
        metrics: `metrics(model, batch) -> {name: (sum, weight)}` of a held-out batch; None is the loss alone.
        twin: builds the torch twin; by default from `model`.
    """

    model: Part | nnx.Module
    loss: Callable[[Any, Batch], Sum]
    torch_loss: Callable[[Any, Batch], Sum] | None = None
    metrics: Callable[[Any, Batch], dict[str, Sum]] | None = None
    twin: Callable[[], Any] | None = None
