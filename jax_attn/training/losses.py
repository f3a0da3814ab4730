"""What a `Task` sums over a batch, and over how many: cross-entropy and accuracy, of arrays of either framework.

Rows and tokens with the label IGNORED do not count: padding, and what fills up a last batch.
"""

from typing import Any

import jax
import jax.numpy as jnp

from jax_attn.optim import cross_entropy
from jax_attn.training.data.examples import IGNORED
from jax_attn.training.task import Sum


def summed_cross_entropy(logits: Any, labels: Any, label_smoothing: float = 0.0) -> Sum:
    """The cross-entropy of all labels, and their number. Of 16-bit logits it is computed in float32.

    Args:
        logits: `(..., classes)`, in JAX or in torch.
        labels: `(...)` classes, or IGNORED.
        label_smoothing: the share of the target that is spread over all classes.
    """
    if not isinstance(logits, jax.Array):
        return torch_summed_cross_entropy(logits, labels, label_smoothing)
    wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    smoothed: dict[str, Any] = {"ignore_index": IGNORED, "label_smoothing": label_smoothing}
    return cross_entropy(wide, labels, reduction="sum", **smoothed), (labels != IGNORED).sum()


def torch_summed_cross_entropy(logits: Any, labels: Any, label_smoothing: float = 0.0) -> Sum:
    """The same of torch tensors alone."""
    import torch

    wide = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(end_dim=-2)
    smoothed: dict[str, Any] = {"ignore_index": IGNORED, "label_smoothing": label_smoothing}
    loss = torch.nn.functional.cross_entropy(wide, labels.flatten().long(), reduction="sum", **smoothed)
    return loss, (labels != IGNORED).sum()


def summed_accuracy(logits: Any, labels: Any) -> Sum:
    """How many labels have the highest score, and their number."""
    return (logits.argmax(-1) == labels).sum(), (labels != IGNORED).sum()
