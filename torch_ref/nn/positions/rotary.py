"""Positions as angles by which queries and keys are turned."""

import torch
from torch import Tensor, nn

from torch_ref.nn.positions.attention_positions import AttentionPositions


class RotaryPositions(nn.Module, AttentionPositions):
    """Turn pairs of features of a query or key by angles that grow with its position.

    See `jax_attn.nn.positions.rotary.RotaryPositions`, its twin, for the formula and the arguments.

    Source: Su et al. (arXiv 2104.09864), section 3.4.2; half-split as transformers' Llama.
    """

    def __init__(
        self, head_dim: int, base: float = 10000.0, rotary_dim: int | None = None, interleaved: bool = False
    ):
        super().__init__()
        self.rotary_dim = head_dim if rotary_dim is None else rotary_dim
        if self.rotary_dim % 2 or not 0 < self.rotary_dim <= head_dim:
            raise ValueError(f"rotary_dim must be even and at most {head_dim}, got {self.rotary_dim}")
        self.base = base
        self.interleaved = interleaved

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """The `(b, n, t, h)` queries or keys turned."""
        return self(x.transpose(1, 2), positions).transpose(1, 2)

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """`(b, t, n, head_dim)` to the same shape, at `positions` `(b or 1, t)`, or at 0 to t-1."""
        if positions is None:
            positions = torch.arange(x.shape[1], device=x.device)[None]
        wide = torch.promote_types(x.dtype, torch.float32)
        pair = torch.arange(0, self.rotary_dim, 2, device=x.device, dtype=wide)
        angles = positions[..., None, None].to(wide) * self.base ** (-pair / self.rotary_dim)
        cos, sin = angles.cos(), angles.sin()
        turned, rest = x[..., : self.rotary_dim].to(wide), x[..., self.rotary_dim :]
        if self.interleaved:
            a, b = turned[..., 0::2], turned[..., 1::2]
            turned = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)
        else:
            a, b = turned.chunk(2, dim=-1)
            turned = torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
        return torch.cat([turned.to(x.dtype), rest], dim=-1)
