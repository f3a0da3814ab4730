"""A stack of encoder layers."""

from torch import Tensor, nn

from torch_ref.nn.layers.encoder_layer import EncoderLayer


class Encoder(nn.Module):
    """`num_layers` encoder layers, one after another: the output has the size of the input.

    See `jax_attn.nn.layers.encoder.Encoder`, its twin, for the arguments. `scan` and `remat` change how that one
    is compiled, not what it computes, and mean nothing here.

    Source: Vaswani et al. (arXiv 1706.03762), section 3.1.
    """

    def __init__(
        self,
        num_layers: int,
        embed_dim: int,
        num_heads: int,
        hidden_dim: int,
        activation: str = "gelu",
        norm_placement: str = "post",
        final_norm: bool = False,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        eps: float = 1e-12,
        *,
        scan: bool = False,
        remat: bool = False,
    ):
        super().__init__()
        self.layers = nn.ModuleList(
            EncoderLayer(
                embed_dim, num_heads, hidden_dim, activation, norm_placement, dropout, attention_dropout, eps
            )
            for _ in range(num_layers)
        )
        self.norm = nn.LayerNorm(embed_dim, eps=eps) if final_norm else None

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`(t, d)` or `(b, t, d)` to the same shape; the mask as in `MultiHeadAttention`."""
        for layer in self.layers:
            x = layer(x, mask)
        return x if self.norm is None else self.norm(x)
