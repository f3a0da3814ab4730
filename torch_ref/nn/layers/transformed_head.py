"""A head behind one more nonlinear layer."""

from typing import Any

from torch import Tensor, nn

from torch_ref.checks import checked
from torch_ref.nn.layers.feed_forward import ACTIVATIONS
from torch_ref.nn.primitives import make_norm


class TransformedHead(nn.Module):
    """`head(norm(activation(pool(x) W + b)))`: every head of ModernBERT.

    See `jax_attn.nn.layers.transformed_head.TransformedHead`, its twin, for the arguments.

    Source: Warner et al. (arXiv 2412.13663), as transformers' ModernBert.
    """

    @checked(activation=ACTIVATIONS)
    def __init__(
        self,
        embed_dim: int,
        head: Any,
        pooler: Any = None,
        activation: str = "gelu",
        bias: bool = True,
        norm: str = "layer",
        eps: float = 1e-5,
    ):
        super().__init__()
        self.pooler = pooler
        self.activation = ACTIVATIONS[activation]
        self.dense = nn.Linear(embed_dim, embed_dim, bias)
        self.norm = make_norm(norm, embed_dim, eps)
        self.head = head

    def forward(self, x: Tensor, *given: Tensor | None) -> Any:
        """What the head gives; `given` goes to the pooler, or to the head where there is none."""
        if self.pooler is not None:
            x, given = self.pooler(x, *given), ()
        return self.head(self.norm(self.activation(self.dense(x))), *given)
