"""Positions in a picture, as angles by which queries and keys are turned."""

import torch
from torch import Tensor, nn

from torch_ref.checks import checked
from torch_ref.nn.positions.attention_positions import AttentionPositions
from torch_ref.nn.positions.rotary import turn
from torch_ref.nn.positions.rotary_scaling import rotary_frequencies


class AxialRotaryPositions(nn.Module, AttentionPositions):
    """Turn pairs of features of a query or key by angles that grow with its row, and others with its column.

    See `jax_attn.nn.positions.axial_rotary.AxialRotaryPositions`, its twin, for the formula and the arguments.

    Source: Su et al. (arXiv 2104.09864) on two axes, as in Qwen2-VL's vision encoder (arXiv 2409.12191).
    """

    @checked()
    def __init__(self, head_dim: int, width: int, base: float = 10000.0):
        super().__init__()
        self.width = width
        self.base = base

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """The `(b, n, t, h)` queries or keys turned."""
        return self(x.transpose(1, 2), positions).transpose(1, 2)

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """`(b, t, n, head_dim)` to the same shape, at `positions` `(b or 1, t)`, or row by row from the first."""
        if positions is None:
            positions = torch.arange(x.shape[1], device=x.device)[None]
        at = positions.clamp(min=0)
        places = torch.stack([at // self.width, at % self.width], dim=-1)
        wide = torch.promote_types(x.dtype, torch.float32)
        places = places[..., None].to(wide)
        angles = (places * rotary_frequencies(self.base, x.shape[-1] // 2, places)).flatten(-2)[:, :, None]
        return turn(x.to(wide), angles.cos(), angles.sin(), interleaved=False).to(x.dtype)
