"""Softmax attention in linear time, by random features."""

import math

import torch
from torch import Tensor, nn

from torch_ref.checks import checked, head_width


class PerformerAttention(nn.Module):
    """Multi-head attention with the weights `φ(q) · φ(k) / Σ φ(q) · φ(k)`, on average those of the softmax.

    See `jax_attn.nn.attention.performer.PerformerAttention`, its twin, for the arguments. Here the weights
    themselves are computed, in time T²; `chunk_size` is not used.

    Source: Choromanski et al. (arXiv 2009.14794).
    """

    features: Tensor

    @checked()
    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_features: int | None = None,
        is_causal: bool = False,
        bias: bool = True,
        eps: float = 0.0,
        chunk_size: int = 64,
    ):
        super().__init__()
        head_dim = head_width(embed_dim, num_heads)
        if num_features is None:
            num_features = max(1, int(head_dim * math.log(head_dim)))
        self.num_heads = num_heads
        self.is_causal = is_causal
        self.eps = eps
        self.q_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.k_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.v_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.register_buffer("features", orthogonal_features(num_features, head_dim))

    def forward(self, x: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """`(b, t, d)` and a context `(b, s, d)` to `(b, t, d)`; or all of them without `b`."""
        context = x if context is None else context
        queries, keys = self.split_heads(self.q_proj(x)), self.split_heads(self.k_proj(context))
        values = self.split_heads(self.v_proj(context))
        if mask is not None:
            keys = keys.masked_fill(~mask[..., None, :, None], 0)

        weights = self.random_features(queries, (-1,)) @ self.random_features(keys, (-1, -2)).mT
        if self.is_causal:
            weights = weights.tril()
        if mask is not None:
            weights = weights.masked_fill(~mask[..., None, None, :], 0)
        total = weights.sum(-1, keepdim=True)
        weights = weights / total.masked_fill(total == 0, 1)
        return self.out_proj((weights @ values).transpose(-2, -3).flatten(-2))

    def random_features(self, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        """`exp(ω x - |x|² / 2)`, up to a factor that is the same along `axes` and cancels."""
        x = x / x.shape[-1] ** 0.25
        products = x @ self.features.mT
        largest = products.detach().amax(axes, keepdim=True)
        exponentials = torch.exp(products - (x * x).sum(-1, keepdim=True) / 2 - largest)
        return (exponentials + self.eps) / self.features.shape[0] ** 0.5

    def split_heads(self, projected: Tensor) -> Tensor:
        """`(b, t, n * h)` to `(b, n, t, h)`."""
        return projected.unflatten(-1, (self.num_heads, -1)).transpose(-2, -3)


def orthogonal_features(num_features: int, head_dim: int) -> Tensor:
    """Vectors from N(0, I), orthogonal to one another within each block of `head_dim`."""
    q, r = torch.linalg.qr(torch.randn(-(-num_features // head_dim), head_dim, head_dim))
    directions = (q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None]).mT.reshape(-1, head_dim)
    return directions[:num_features] * torch.randn(num_features, head_dim).norm(dim=-1, keepdim=True)
