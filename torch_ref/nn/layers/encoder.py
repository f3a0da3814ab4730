"""A stack of encoder layers of one kind."""

from typing import Any

from torch import Tensor

from torch_ref.checks import checked
from torch_ref.nn.layers.encoder_layer import EncoderLayer
from torch_ref.nn.layers.stack import Stack
from torch_ref.nn.primitives import make_norm


class Encoder(Stack):
    """`num_layers` encoder layers, one after another: the output has the size of the input.

    See `jax_attn.nn.layers.encoder.Encoder`, its twin, for the arguments.

    Source: Vaswani et al. (arXiv 1706.03762), section 3.1.
    """

    @checked()
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
        eps: float | None = 1e-12,
        norm: str = "layer",
        *,
        scan: bool = False,
        remat: bool = False,
        **layer_arguments: Any,
    ):
        sizes = embed_dim, num_heads, hidden_dim, activation, norm_placement
        rest = dropout, attention_dropout, eps, norm
        layers = [EncoderLayer(*sizes, *rest, **layer_arguments) for _ in range(num_layers)]
        super().__init__(layers, make_norm(norm, embed_dim, eps) if final_norm else None)

    def forward(self, x: Tensor, mask: Tensor | None = None, **options: Any) -> Tensor:
        """`(t, d)` or `(b, t, d)` to the same shape; mask and options as in `EncoderLayer`."""
        return super().forward(x, mask, **options)
