"""What is trained: a model, and what its loss and its figures are."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optax
from flax import nnx

from jax_attn.models import Part
from jax_attn.optim.transformation import Schedule

# A batch has one leading axis of rows: {"input_ids": (b, t), "mask": (b, t), "labels": (b,)}, for example.
Batch = Mapping[str, np.ndarray]
# What is summed, and over how many: the loss of a batch is their quotient, and so is that of many batches together.
Sum = tuple[Any, Any]


def count_tokens(batch: Batch) -> int:
    """How many tokens a batch has that are no padding: by `mask` or `segment_ids`; else all, else the rows."""
    for name in ("mask", "attention_mask", "segment_ids"):
        if name in batch:
            return int(np.count_nonzero(batch[name]))
    first = batch.get("input_ids", next(iter(batch.values())))
    return first.size if first.dtype.kind in "iu" else len(first)


def lowest_loss(figures: Mapping[str, float]) -> float:
    """Of two evaluations, the better has the lower loss."""
    return -figures["loss"]


@dataclass(frozen=True)
class Task:
    """A model and its losses, in both frameworks.

    Args:
        model: the model as a description, built in either framework; or a Flax module that is there already, as
            `from_pretrained` gives it, which has the trained weights afterwards; or a function that makes one, so
            that on a mesh its arrays are made where they belong. Without a description there is no twin unless
            `twin` is given.
        loss: `loss(model, batch) -> (sum, weight)`: the loss summed over the batch, and the number of tokens or
            texts in the sum. The trainer divides, so that accumulated and sharded batches weigh every token alike.
        torch_loss: the same with the torch twin and a batch of tensors; needed with `--framework torch` alone.
        metrics: `metrics(model, batch) -> {name: (sum, weight)}` of a held-out batch, beside the loss; an entry
            called `loss` stands in for it.
        torch_metrics: the same with the torch twin; None is the loss alone.
        twin: builds the torch twin; by default from `model`.
        optimizer: makes an optax optimizer of the learning rate by step; by default AdamW of the options, the only
            one that has a counterpart in torch.
        score: of the figures of an evaluation, by name, the number that is highest for the best checkpoint.
        count_tokens: how many tokens (or rows, where there are none) a batch counts for in tokens a second.
        save: `save(model, folder)` writes the trained model, as `jax_attn.weights.save_pretrained` does, into the
            folder `model` of the run.
        write: `write(model) -> text`, printed after each evaluation: what a language model makes up, for example.
        files: texts, or files, that are written into the run's folder at the start, by name: a tokenizer's, for
            example.
    """

    model: Part | nnx.Module | Callable[[], nnx.Module]
    loss: Callable[[Any, Batch], Sum]
    torch_loss: Callable[[Any, Batch], Sum] | None = None
    metrics: Callable[[Any, Batch], dict[str, Sum]] | None = None
    torch_metrics: Callable[[Any, Batch], dict[str, Sum]] | None = None
    twin: Callable[[], Any] | None = None
    optimizer: Callable[[Schedule], optax.GradientTransformation] | None = None
    score: Callable[[Mapping[str, float]], float] = lowest_loss
    count_tokens: Callable[[Batch], int] = count_tokens
    save: Callable[[Any, Path], Any] | None = None
    write: Callable[[Any], str] | None = None
    files: Mapping[str, str | Path] = field(default_factory=dict)

    def figures(self, model: Any, batch: Batch) -> dict[str, Sum]:
        """The loss and the metrics of a held-out batch, in JAX."""
        return _figures(self.loss, self.metrics, model, batch)

    def torch_figures(self, model: Any, batch: Batch) -> dict[str, Sum]:
        """The same of the torch twin."""
        assert self.torch_loss is not None
        return _figures(self.torch_loss, self.torch_metrics, model, batch)


def _figures(loss: Any, metrics: Any, model: Any, batch: Batch) -> dict[str, Sum]:
    found = metrics(model, batch) if metrics else {}
    return found if "loss" in found else {"loss": loss(model, batch), **found}
