"""Positions as angles by which queries and keys are turned."""

import torch
from torch import Tensor, nn

from torch_ref.checks import checked
from torch_ref.nn.positions.attention_positions import AttentionPositions
from torch_ref.nn.positions.rotary_scaling import RotaryScaling, rotary_frequencies


class RotaryPositions(nn.Module, AttentionPositions):
    """Turn pairs of features of a query or key by angles that grow with its position.

    See `jax_attn.nn.positions.rotary.RotaryPositions`, its twin, for the formula and the arguments.

    Source: Su et al. (arXiv 2104.09864), section 3.4.2; half-split as transformers' Llama.
    """

    @checked()
    def __init__(
        self,
        head_dim: int,
        base: float = 10000.0,
        rotary_dim: int | None = None,
        interleaved: bool = False,
        scaling: RotaryScaling | None = None,
    ):
        super().__init__()
        self.rotary_dim = head_dim if rotary_dim is None else rotary_dim
        if self.rotary_dim % 2 or not 0 < self.rotary_dim <= head_dim:
            raise ValueError(f"rotary_dim must be even and at most {head_dim}, got {self.rotary_dim}")
        self.base = base
        self.interleaved = interleaved
        self.scaling = scaling

    def rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        """The `(b, n, t, h)` queries or keys turned."""
        return self(x.transpose(1, 2), positions).transpose(1, 2)

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """`(b, t, n, head_dim)` to the same shape, at `positions` `(b or 1, t)`, or at 0 to t-1."""
        if positions is None:
            positions = torch.arange(x.shape[1], device=x.device)[None]
        wide = torch.promote_types(x.dtype, torch.float32)
        length = (positions.amax(dim=1)[:, None, None] + 1).to(wide)
        if self.scaling is None:
            frequencies, factor = rotary_frequencies(self.base, self.rotary_dim, length), 1.0
        else:
            frequencies = self.scaling.frequencies(self.base, self.rotary_dim, length)
            factor = self.scaling.attention_scaling
        angles = (positions[..., None].to(wide) * frequencies)[:, :, None]
        x, rest = x[..., : self.rotary_dim].to(wide), x[..., self.rotary_dim :]
        turned = turn(x, angles.cos() * factor, angles.sin() * factor, self.interleaved)
        return torch.cat([turned.to(rest.dtype), rest], dim=-1)


def turn(x: Tensor, cos: Tensor, sin: Tensor, interleaved: bool) -> Tensor:
    """Turn each pair `(a, b)` of features to `(a cos - b sin, b cos + a sin)`."""
    if interleaved:
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1).flatten(-2)
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)
