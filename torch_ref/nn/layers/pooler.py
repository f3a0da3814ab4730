"""One vector for a sequence: its first token's."""

import torch
from torch import Tensor, nn


class Pooler(nn.Module):
    """`tanh(x[0] W + b)`.

    See `jax_attn.nn.layers.pooler.Pooler`, its twin.

    Source: Devlin et al. (arXiv 1810.04805), appendix A; the dense layer and tanh are in its code.
    """

    def __init__(self, embed_dim: int):
        super().__init__()
        self.dense = nn.Linear(embed_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """`(t, d)` to `(d,)`, or `(b, t, d)` to `(b, d)`."""
        return torch.tanh(self.dense(x[..., 0, :]))
