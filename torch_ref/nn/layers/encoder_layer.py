"""One layer of an encoder: attention, then feed-forward, each with a skip connection and a norm."""

from typing import Any

from torch import Tensor, nn

from torch_ref.checks import checked, require_known
from torch_ref.nn.attention.multi_head import MultiHeadAttention
from torch_ref.nn.layers.drop_path import DropPath
from torch_ref.nn.layers.feed_forward import FeedForward
from torch_ref.nn.layers.layer_scale import LayerScale
from torch_ref.nn.primitives import make_norm


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each added to what it was computed from, with norms where they are wanted.

    See `jax_attn.nn.layers.encoder_layer.EncoderLayer`, its twin, for the formulas and the arguments.

    Source: Vaswani et al. (arXiv 1706.03762), section 3.1; pre-norm: Xiong et al. (2002.04745); sandwich: Gemma 2
    (2408.00118); parallel: GPT-J, PaLM (2204.02311); DeepNorm: Wang et al. (2203.00555).
    """

    @checked()
    def __init__(
        self,
        embed_dim: int,
        num_heads: int | None = None,
        hidden_dim: int | None = None,
        activation: str = "gelu",
        norm_placement: str = "post",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        eps: float | None = 1e-12,
        norm: str = "layer",
        residual_scale: float = 1.0,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        attention: Any = None,
        feed_forward: Any = None,
        first_norm: bool = True,
    ):
        super().__init__()
        self.norm_placement = norm_placement
        self.residual_scale = residual_scale
        if attention is None and num_heads is not None:
            attention = MultiHeadAttention(embed_dim, num_heads, dropout=attention_dropout)
        if feed_forward is None and hidden_dim is not None:
            feed_forward = FeedForward(embed_dim, hidden_dim, activation, dropout)
        self.attention = attention
        self.feed_forward = feed_forward
        self.dropout = nn.Dropout(dropout)
        self.drop_path = DropPath(drop_path) if drop_path else None
        norms = {
            "post": ["attention_norm", "feed_forward_norm"],
            "pre": ["attention_norm", "feed_forward_norm"],
            "sandwich": [
                "attention_norm",
                "attention_output_norm",
                "feed_forward_norm",
                "feed_forward_output_norm",
            ],
            "parallel": ["attention_norm"],
            "parallel_two_norms": ["attention_norm", "feed_forward_norm"],
        }
        require_known("norm_placement", norm_placement, norms)
        for name in norms[norm_placement]:
            setattr(self, name, make_norm(norm, embed_dim, eps))
        if not first_norm:
            self.attention_norm = nn.Identity()
        self.attention_scale, self.feed_forward_scale = (
            None if layer_scale is None else LayerScale(embed_dim, layer_scale) for _ in range(2)
        )

    def forward(self, x: Tensor, mask: Tensor | None = None, **options: Any) -> Tensor:
        """`(t, d)` or `(b, t, d)` to the same shape; mask and options as in `MultiHeadAttention`."""
        attended = self.dropout(self.attention(self.normed("attention", x), mask=mask, **options))
        return self.feed(x, self.added("attention", x, attended), mask)

    def feed(self, x: Tensor, after: Tensor, mask: Tensor | None) -> Tensor:
        """The last branch: it reads what the attentions left, or side by side with them what they read."""
        if self.norm_placement == "parallel":
            read = self.normed("attention", x)
        else:
            read = self.normed("feed_forward", x if self.norm_placement == "parallel_two_norms" else after)
        options = {}
        if getattr(self.feed_forward, "takes_mask", False):  # of padding: one of pairs tells none
            options = {"mask": mask if mask is not None and mask.ndim == x.ndim - 1 else None}
        return self.added("feed_forward", after, self.feed_forward(read, **options))

    def normed(self, branch: str, x: Tensor) -> Tensor:
        """What a branch reads."""
        return x if self.norm_placement == "post" else getattr(self, f"{branch}_norm")(x)

    def added(self, branch: str, x: Tensor, output: Tensor) -> Tensor:
        """`x` with the output of a branch added to it."""
        if self.norm_placement == "sandwich":
            output = getattr(self, f"{branch}_output_norm")(output)
        scale = getattr(self, f"{branch}_scale")
        output = output if scale is None else scale(output)
        output = output if self.drop_path is None else self.drop_path(output)
        if self.norm_placement == "post":
            x = x if self.residual_scale == 1.0 else x * self.residual_scale
            return getattr(self, f"{branch}_norm")(x + output)
        return x + output
