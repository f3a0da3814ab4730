"""A layer with a convolution over neighbouring tokens beside it."""

from typing import Any

from torch import Tensor, nn

from torch_ref.checks import checked
from torch_ref.nn.layers.feed_forward import ACTIVATIONS


class ConvolutionLayer(nn.Module):
    """`norm(layer(x) + activation(dropout(conv(x))))`: DeBERTa-v2's first layer, which sees n-grams too.

    See `jax_attn.nn.layers.convolution_layer.ConvolutionLayer`, its twin, for the arguments.

    Source: He et al. (arXiv 2006.03754), in the code of DeBERTa-v2, as transformers' DebertaV2.
    """

    @checked(activation=ACTIVATIONS)
    def __init__(
        self,
        layer: Any,
        embed_dim: int,
        kernel_size: int,
        groups: int = 1,
        activation: str = "tanh",
        dropout: float = 0.0,
        eps: float = 1e-7,
    ):
        super().__init__()
        self.layer = layer
        self.convolution = nn.Conv1d(
            embed_dim, embed_dim, kernel_size, padding=kernel_size // 2, groups=groups
        )
        self.activation = ACTIVATIONS[activation]
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(embed_dim, eps)

    def forward(self, x: Tensor, mask: Tensor | None = None, **options: Any) -> Tensor:
        """`(t, d)` or `(b, t, d)` to the same shape; mask `(t,)` or `(b, t)`."""
        attended = self.layer(x, mask, **options)
        real = 1.0 if mask is None else mask[..., None].to(x.dtype)
        seen = self.convolution((x * real).mT).mT * real
        return self.norm(attended + self.activation(self.dropout(seen)))
