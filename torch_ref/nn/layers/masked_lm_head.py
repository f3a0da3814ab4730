"""Scores of all tokens, for those that were hidden."""

from typing import Any

from torch import Tensor, nn

from torch_ref.checks import checked
from torch_ref.nn.layers.feed_forward import ACTIVATIONS
from torch_ref.nn.layers.tied_head import TiedHead
from torch_ref.nn.primitives import make_norm


class MaskedLMHead(nn.Module):
    """`norm(activation(x W_dense + b_dense)) W + b`; `W` is the table of the embeddings, `Eᵀ`, where `tied`.

    See `jax_attn.nn.layers.masked_lm_head.MaskedLMHead`, its twin, for the arguments.

    Source: Devlin et al. (arXiv 1810.04805), section 3.1; the dense layer and the norm are in its code.
    """

    @checked(activation=ACTIVATIONS)
    def __init__(
        self,
        embed_dim: int,
        vocab_size: int,
        activation: str = "gelu",
        eps: float = 1e-12,
        tied: bool = True,
        embedding_dim: int | None = None,
        norm: str = "layer",
    ):
        super().__init__()
        width = embed_dim if embedding_dim is None else embedding_dim
        self.activation = ACTIVATIONS[activation]
        self.dense = nn.Linear(embed_dim, width)
        self.norm = make_norm(norm, width, eps)
        self.decoder: Any = None if tied else nn.Linear(width, vocab_size)
        self.tied_decoder = TiedHead(vocab_size, bias=True) if tied else None

    def forward(self, x: Tensor, table: Tensor | None = None) -> Tensor:
        """`(t, d)` to logits `(t, vocab_size)`, or the same with a batch axis before."""
        hidden = self.norm(self.activation(self.dense(x)))
        return self.tied_decoder(hidden, table) if self.tied_decoder else self.decoder(hidden)
