"""Self-attention as the papers of BERT's time write it: one width throughout, biases everywhere."""

import torch
from torch import Tensor, nn


class EmbedScaledSelfAttention(nn.Module):
    """Self-attention whose input, projections and output all have the width of the embedding.

    See `jax_attn.from_scratch.embed_scaled.EmbedScaledSelfAttention`, its twin, for the formula.

    Source: "Attention Is All You Need" (arXiv 1706.03762), section 3.2.1.
    """

    def __init__(self, embed_dim: int):
        super().__init__()
        self.embed_dim = embed_dim
        self.query = nn.Linear(embed_dim, embed_dim)
        self.key = nn.Linear(embed_dim, embed_dim)
        self.value = nn.Linear(embed_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """`(t, embed_dim)` or `(b, t, embed_dim)` to the same."""
        scores = self.query(x) @ self.key(x).mT / self.embed_dim**0.5
        return torch.softmax(scores, dim=-1) @ self.value(x)
