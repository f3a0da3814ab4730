"""Attention in linear time, by way of a few landmarks among queries and keys."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torch_ref.checks import checked, head_width


class NystromAttention(nn.Module):
    """Multi-head attention `softmax(Q K̃ᵀ) softmax(Q̃ K̃ᵀ)⁺ softmax(Q̃ Kᵀ) V`, products over `sqrt(head_dim)`.

    See `jax_attn.nn.attention.nystrom.NystromAttention`, its twin, for the landmarks and the arguments.

    Source: Xiong et al. (arXiv 2102.03902).
    """

    @checked()
    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_landmarks: int = 64,
        conv_kernel_size: int | None = None,
        iterations: int = 6,
        bias: bool = True,
    ):
        super().__init__()
        head_width(embed_dim, num_heads)
        self.num_heads = num_heads
        self.num_landmarks = num_landmarks
        self.iterations = iterations
        self.q_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.k_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.v_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.out_proj = nn.Linear(embed_dim, embed_dim, bias=bias)
        self.conv = (
            None
            if conv_kernel_size is None
            else nn.Conv2d(
                num_heads,
                num_heads,
                (conv_kernel_size, 1),
                padding=(conv_kernel_size // 2, 0),
                groups=num_heads,
                bias=False,
            )
        )

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`(b, t, d)` and a mask `(b, t)`, True = attend, to `(b, t, d)`; or both without `b`."""
        if x.ndim == 2:  # a batch of one
            return self(x[None], None if mask is None else mask[None])[0]
        if mask is None:
            mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        queries, keys, values = (
            projection(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        queries, keys = (each / each.shape[-1] ** 0.25 for each in (queries, keys))
        values = values.masked_fill(~mask[:, None, :, None], 0)

        size = -(-x.shape[1] // self.num_landmarks)
        if size == 1:
            heads = softmax(queries @ keys.mT, mask) @ values
        else:
            (q_marks, marked), (k_marks, _) = (segment_means(each, mask, size) for each in (queries, keys))
            between = softmax(q_marks @ k_marks.mT, marked).masked_fill(~marked[:, None, :, None], 0)
            to_marks = softmax(queries @ k_marks.mT, marked) @ inverse(between, self.iterations)
            heads = to_marks @ (softmax(q_marks @ keys.mT, mask) @ values)
        if self.conv is not None:
            heads = heads + self.conv(values)
        return self.out_proj(heads.transpose(1, 2).flatten(2))


def softmax(scores: Tensor, keys: Tensor) -> Tensor:
    """Over the keys `(b, s)` that are True; 0 where none is."""
    closed = ~keys[:, None, None]
    return torch.softmax(scores.masked_fill(closed, -torch.inf), dim=-1).masked_fill(closed, 0)


def segment_means(x: Tensor, mask: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """The mean of each `size` tokens that are no padding, `(b, n, l, h)`, and which segments have any, `(b, l)`."""
    missing = -x.shape[2] % size
    kept = F.pad(mask, (0, missing)).unflatten(-1, (-1, size))
    tokens = F.pad(x, (0, 0, 0, missing)).unflatten(2, (-1, size))
    total = tokens.masked_fill(~kept[:, None, ..., None], 0).sum(3)
    count = kept.sum(-1)
    return total / count.clamp(min=1)[:, None, :, None], count > 0


def inverse(matrix: Tensor, iterations: int) -> Tensor:
    """The Moore-Penrose inverse of matrices whose rows sum to 1, iterated."""
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    largest = matrix.sum(-2).amax(-1)[..., None, None]
    z = matrix.mT / largest.masked_fill(largest == 0, 1)
    for _ in range(iterations):
        product = matrix @ z
        z = z @ (13 * identity - product @ (15 * identity - product @ (7 * identity - product))) / 4
    return z
