"""Losses as a pair of modules, into which their mutations are injected."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_attn.optim.losses import cross_entropy, mse_loss
from jax_attn.parity.cases import Case

SMOOTHING = 0.1


class FlaxLosses(nnx.Module):
    """Cross-entropy with label smoothing and ignored labels, and the mean of squares of the same logits."""

    def __call__(self, logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Both losses of `(rows, classes)` and `(rows,)`."""
        squares = mse_loss(logits, jnp.zeros_like(logits))
        return cross_entropy(logits, labels, label_smoothing=SMOOTHING), squares


def torch_losses() -> Any:
    """The same in torch."""
    import torch
    from torch.nn import functional as F

    class TorchLosses(torch.nn.Module):
        def forward(self, logits: Any, labels: Any) -> Any:
            squares = F.mse_loss(logits, torch.zeros_like(logits))
            return F.cross_entropy(logits, labels, label_smoothing=SMOOTHING), squares

    return TorchLosses()


def loss_cases() -> list[Case]:
    """Logits of ordinary size and of great size; some rows are not to be counted."""
    rng = np.random.default_rng(0)
    logits, labels = rng.standard_normal((11, 5)), rng.integers(5, size=11)
    labels[[2, 7]] = -100
    return [Case("plain", (logits, labels)), Case("large", (30 * logits, labels))]
