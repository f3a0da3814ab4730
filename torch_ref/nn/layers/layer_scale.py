"""A learned factor for each feature of a branch, small at first."""

import torch
from torch import Tensor, nn

from torch_ref.checks import checked


class LayerScale(nn.Module):
    """`x * weight`: stands behind a branch, before it is added to the skip connection.

    See `jax_attn.nn.layers.layer_scale.LayerScale`, its twin.

    Source: Touvron et al. (arXiv 2103.17239), section 2.
    """

    @checked()
    def __init__(self, embed_dim: int, initial: float = 1e-5):
        super().__init__()
        self.weight = nn.Parameter(torch.full((embed_dim,), initial))

    def forward(self, x: Tensor) -> Tensor:
        """`(t, d)` or `(b, t, d)` to the same shape."""
        return x * self.weight
