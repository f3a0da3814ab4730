"""Attention to a fixed number of mixtures of the keys: the length is projected, too."""

import torch
from torch import Tensor, nn

from torch_ref.checks import checked, head_width


class LinformerAttention(nn.Module):
    """Multi-head attention `softmax(Q (Eᵀ K)ᵀ / sqrt(head_dim)) (Fᵀ V)`, with learned `E` and `F` over positions.

    See `jax_attn.nn.attention.linformer.LinformerAttention`, its twin, for the arguments.

    Source: Wang et al. (arXiv 2006.04768).
    """

    @checked(sharing=("none", "heads", "keys and values"))
    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        max_length: int,
        projected_length: int,
        sharing: str = "heads",
        dropout: float = 0.0,
        bias: bool = True,
    ):
        super().__init__()
        head_width(embed_dim, num_heads)
        self.num_heads = num_heads
        self.q_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.k_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.v_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        shape = (max_length, projected_length)
        shape = (num_heads, *shape) if sharing == "none" else shape
        self.key_lengths = nn.Parameter(torch.randn(shape) / projected_length**0.5)
        self.value_lengths = (
            None if sharing == "keys and values" else nn.Parameter(torch.randn(shape) / projected_length**0.5)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """`(b, t, d)`, a context `(b, s, d)` and a mask `(b, s)` to `(b, t, d)`; or all of them without `b`."""
        context = x if context is None else context
        queries = self.split_heads(self.q_proj(x))
        keys, values = self.split_heads(self.k_proj(context)), self.split_heads(self.v_proj(context))
        if mask is not None:
            closed = ~mask[..., None, :, None]
            keys, values = keys.masked_fill(closed, 0), values.masked_fill(closed, 0)
        of_values = self.key_lengths if self.value_lengths is None else self.value_lengths
        keys = self.key_lengths[..., : keys.shape[-2], :].mT @ keys
        values = of_values[..., : values.shape[-2], :].mT @ values
        weights = torch.softmax(queries @ keys.mT / queries.shape[-1] ** 0.5, dim=-1)
        return self.out_proj((self.dropout(weights) @ values).transpose(-2, -3).flatten(-2))

    def split_heads(self, projected: Tensor) -> Tensor:
        """`(b, t, n * h)` to `(b, n, t, h)`."""
        return projected.unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)
