"""One layer of a decoder: attention to the tokens before, attention to a context, then feed-forward."""

from typing import Any

from torch import Tensor

from torch_ref.checks import checked
from torch_ref.nn.attention.multi_head import MultiHeadAttention
from torch_ref.nn.layers.encoder_layer import EncoderLayer
from torch_ref.nn.layers.layer_scale import LayerScale
from torch_ref.nn.primitives import make_norm


class DecoderLayer(EncoderLayer):
    """An `EncoderLayer` whose self-attention is causal, and which may attend to a context after that.

    See `jax_attn.nn.layers.decoder_layer.DecoderLayer`, its twin, for the formula and the arguments.

    Source: Vaswani et al. (arXiv 1706.03762), section 3.1.
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
        eps: float | None = 1e-5,
        norm: str = "layer",
        residual_scale: float = 1.0,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        attention: Any = None,
        feed_forward: Any = None,
        context_dim: int | None = None,
        cross_attention: Any = None,
    ):
        if attention is None and num_heads is not None:
            attention = MultiHeadAttention(embed_dim, num_heads, dropout=attention_dropout, is_causal=True)
        super().__init__(
            embed_dim,
            num_heads,
            hidden_dim,
            activation,
            norm_placement,
            dropout,
            attention_dropout,
            eps,
            norm,
            residual_scale,
            layer_scale,
            drop_path,
            attention,
            feed_forward,
        )
        if cross_attention is None and context_dim is not None and num_heads is not None:
            cross_attention = MultiHeadAttention(
                embed_dim, num_heads, dropout=attention_dropout, kdim=context_dim
            )
        self.cross_attention = cross_attention
        if cross_attention is not None:
            self.cross_attention_norm = make_norm(norm, embed_dim, eps)
            if norm_placement == "sandwich":
                self.cross_attention_output_norm = make_norm(norm, embed_dim, eps)
            self.cross_attention_scale = None if layer_scale is None else LayerScale(embed_dim, layer_scale)

    def forward(  # ty: ignore[incompatible-method-override]
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        context_mask: Tensor | None = None,
        *,
        cache: Any = None,
        **options: Any,
    ) -> Any:
        """`(t, d)` or `(b, t, d)` to the same shape; with a cache, a tuple of that and the new cache.

        The cache is that of the self-attention: here the context is given with each call.
        """
        if cache is not None:
            options["cache"] = cache
        attended = self.attention(self.normed("attention", x), mask=mask, **options)
        if cache is not None:
            attended, cache = attended
        after = self.added("attention", x, self.dropout(attended))
        if self.cross_attention is not None:
            attended = self.cross_attention(self.normed("cross_attention", after), context, context_mask)
            after = self.added("cross_attention", after, self.dropout(attended))
        output = self.feed(x, after, mask)
        return output if cache is None else (output, cache)

    def init_cache(self, batch: int) -> Any:
        """The keys and values of no tokens."""
        return self.attention.init_cache(batch)
