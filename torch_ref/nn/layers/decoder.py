"""A stack of decoder layers of one kind."""

from typing import Any

from torch import Tensor

from torch_ref.checks import checked
from torch_ref.nn.layers.decoder_layer import DecoderLayer
from torch_ref.nn.layers.stack import Stack
from torch_ref.nn.primitives import make_norm


class Decoder(Stack):
    """`num_layers` decoder layers, one after another: the output has the size of the input.

    See `jax_attn.nn.layers.decoder.Decoder`, its twin, for the arguments.

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
        eps: float | None = 1e-5,
        norm: str = "layer",
        context_dim: int | None = None,
        *,
        scan: bool = False,
        remat: bool = False,
        **layer_arguments: Any,
    ):
        sizes = embed_dim, num_heads, hidden_dim, activation, norm_placement
        rest = dropout, attention_dropout, eps, norm
        layers = [
            DecoderLayer(*sizes, *rest, context_dim=context_dim, **layer_arguments) for _ in range(num_layers)
        ]
        super().__init__(layers, make_norm(norm, embed_dim, eps) if final_norm else None)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        context_mask: Tensor | None = None,
        *,
        cache: Any = None,
        **options: Any,
    ) -> Any:
        """`(t, d)` or `(b, t, d)` to the same shape; called as `DecoderLayer`."""
        return super().forward(x, context, mask, context_mask, cache=cache, **options)
