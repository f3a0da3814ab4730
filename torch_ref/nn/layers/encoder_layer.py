"""One layer of an encoder: attention, then feed-forward, each with a skip connection and a norm."""

from torch import Tensor, nn

from torch_ref.nn.attention.multi_head import MultiHeadAttention
from torch_ref.nn.layers.feed_forward import FeedForward


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, with the layer norm after each skip connection or before each branch.

    See `jax_attn.nn.layers.encoder_layer.EncoderLayer`, its twin, for the formula and the arguments.

    Source: Vaswani et al. (arXiv 1706.03762), section 3.1; pre-norm: Xiong et al. (arXiv 2002.04745).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        hidden_dim: int,
        activation: str = "gelu",
        norm_placement: str = "post",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        eps: float = 1e-12,
    ):
        super().__init__()
        if norm_placement not in ("post", "pre"):
            raise ValueError(f'norm_placement must be "post" or "pre", got {norm_placement!r}')
        self.norm_placement = norm_placement
        self.attention = MultiHeadAttention(embed_dim, num_heads, dropout=attention_dropout)
        self.attention_norm = nn.LayerNorm(embed_dim, eps=eps)
        self.feed_forward = FeedForward(embed_dim, hidden_dim, activation, dropout)
        self.feed_forward_norm = nn.LayerNorm(embed_dim, eps=eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`(t, d)` or `(b, t, d)` to the same shape; the mask as in `MultiHeadAttention`."""
        if self.norm_placement == "post":
            x = self.attention_norm(x + self.dropout(self.attention(x, mask=mask)))
            return self.feed_forward_norm(x + self.feed_forward(x))
        x = x + self.dropout(self.attention(self.attention_norm(x), mask=mask))
        return x + self.feed_forward(self.feed_forward_norm(x))
