"""Positions as waves, with nothing to learn."""

import torch
from torch import Tensor, nn

from torch_ref.checks import checked


class SinusoidalPositions(nn.Module):
    """Adds sines and cosines of the position to each token, wavelengths from 2π to 2π · 10000.

    See `jax_attn.nn.positions.sinusoidal.SinusoidalPositions`, its twin, for the formulas. The table is a
    buffer, in float64 where it is not saved, so that `double()` has nothing to make up.

    Source: Vaswani et al. (arXiv 1706.03762), section 3.5.
    """

    table: Tensor

    @checked(layout=("interleaved", "halves"))
    def __init__(
        self, num_embeddings: int, embedding_dim: int, layout: str = "interleaved", persistent: bool = False
    ):
        super().__init__()
        position = torch.arange(num_embeddings, dtype=torch.float64)[:, None]
        if layout == "halves":
            half = torch.linspace(0, 1, embedding_dim // 2, dtype=torch.float64)
            angles = position * 10000.0**-half
            table = torch.cat([angles.sin(), angles.cos()], dim=1)
        else:
            frequency = 10000.0 ** (-torch.arange(0, embedding_dim, 2, dtype=torch.float64) / embedding_dim)
            table = torch.empty(num_embeddings, embedding_dim, dtype=torch.float64)
            table[:, 0::2] = torch.sin(position * frequency)
            table[:, 1::2] = torch.cos(position * frequency)[:, : embedding_dim // 2]
        table = table.to(torch.get_default_dtype()) if persistent else table
        self.register_buffer("table", table, persistent=persistent)

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """`(t, d)` or `(b, t, d)` to the same shape, at positions `(t,)` or `(b, t)`; below 0 nothing is added."""
        if positions is None:
            return x + self.table[: x.shape[-2]].to(x.dtype)
        return x + self.table[positions.clamp(min=0)].to(x.dtype) * (positions >= 0)[..., None]
