"""What a `Task` sums over a batch, and over how many: cross-entropy in Flax and in torch, and accuracy in both.

Rows and tokens with the label IGNORED do not count: padding, and what fills up a last batch.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jax_attn.optim import cross_entropy
from jax_attn.training.data.examples import IGNORED
from jax_attn.training.task import Sum


def summed_cross_entropy(
    logits: Float[Array, "*rows C"], labels: Int[Array, "*rows"], label_smoothing: float = 0.0
) -> Sum:
    """The cross-entropy of all labels, and their number. Of 16-bit logits it is computed in float32."""
    wide = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    smoothed: dict[str, Any] = {"ignore_index": IGNORED, "label_smoothing": label_smoothing}
    return cross_entropy(wide, labels, reduction="sum", **smoothed), jnp.sum(labels != IGNORED)


def torch_summed_cross_entropy(logits: Any, labels: Any, label_smoothing: float = 0.0) -> Sum:
    """The same of torch tensors."""
    import torch
    from torch.nn import functional

    wide = logits.to(torch.promote_types(logits.dtype, torch.float32)).flatten(end_dim=-2)
    smoothed: dict[str, Any] = {"ignore_index": IGNORED, "label_smoothing": label_smoothing}
    loss = functional.cross_entropy(wide, labels.flatten().long(), reduction="sum", **smoothed)
    return loss, (labels != IGNORED).sum()


def summed_accuracy(logits: Any, labels: Any) -> Sum:
    """How many labels have the highest score, and their number; of arrays of either framework."""
    return (logits.argmax(-1) == labels).sum(), (labels != IGNORED).sum()
