"""One layer of an encoder: attention, then feed-forward, each with a skip connection and a norm."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jax_attn.nn.attention.multi_head import MultiHeadAttention
from jax_attn.nn.layers.feed_forward import FeedForward
from jax_attn.nn.primitives import Dropout, LayerNorm

NORM_PLACEMENTS = ("post", "pre")


class EncoderLayer(nnx.Module):
    """Self-attention and feed-forward, with the layer norm after each skip connection or before each branch.

    "post" (2017, BERT)::

        x = attention_norm(x + dropout(attention(x)))
        x = feed_forward_norm(x + feed_forward(x))

    "pre" (GPT-2 and later; trains without warm-up)::

        x = x + dropout(attention(attention_norm(x)))
        x = x + feed_forward(feed_forward_norm(x))

    Parameters: `attention.{q,k,v,out}_proj`, `attention_norm`, `feed_forward.{up,down}`,
    `feed_forward_norm`.

    Args:
        embed_dim: width of input and output.
        num_heads: number of attention heads; it divides `embed_dim`.
        hidden_dim: width inside the feed-forward.
        activation: of the feed-forward: "gelu", "gelu_tanh" or "relu".
        norm_placement: "post" or "pre".
        dropout: probability of dropping an element of what is added to the skip connections, while training.
        attention_dropout: probability of dropping an attention weight, while training.
        eps: epsilon of the layer norms.
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: `norm_placement` or `activation` is not known, `num_heads` does not divide `embed_dim`, or
            input or mask has a wrong shape.

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
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        if norm_placement not in NORM_PLACEMENTS:
            raise ValueError(
                f"norm_placement must be one of {', '.join(NORM_PLACEMENTS)}, got {norm_placement!r}"
            )
        self.norm_placement = norm_placement
        self.attention = MultiHeadAttention(
            embed_dim, num_heads, dropout=attention_dropout, rngs=rngs, dtype=dtype, param_dtype=param_dtype
        )
        self.attention_norm = LayerNorm(embed_dim, eps=eps, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.feed_forward = FeedForward(
            embed_dim, hidden_dim, activation, dropout, rngs=rngs, dtype=dtype, param_dtype=param_dtype
        )
        self.feed_forward_norm = LayerNorm(
            embed_dim, eps=eps, rngs=rngs, dtype=dtype, param_dtype=param_dtype
        )
        self.dropout = Dropout(dropout, rngs=rngs)

    def __call__(
        self, x: Float[Array, "*b t d"], mask: Bool[Array, "..."] | None = None
    ) -> Float[Array, "*b t d"]:
        """`(t, d)` or `(b, t, d)` to the same shape; the mask as in `MultiHeadAttention`."""
        if self.norm_placement == "post":
            x = self.attention_norm(x + self.dropout(self.attention(x, mask=mask)))
            return self.feed_forward_norm(x + self.feed_forward(x))
        x = x + self.dropout(self.attention(self.attention_norm(x), mask=mask))
        return x + self.feed_forward(self.feed_forward_norm(x))
