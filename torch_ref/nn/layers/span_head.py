"""From a sequence of vectors to where an answer starts and ends."""

from typing import NamedTuple

from torch import Tensor, nn

from torch_ref.checks import checked


class SpanLogits(NamedTuple):
    """The scores of each token as the first and as the last of the answer."""

    start: Tensor
    end: Tensor


class SpanHead(nn.Module):
    """`dropout(x) W + b`, two scores for each token: as the first and as the last token of an answer.

    See `jax_attn.nn.layers.span_head.SpanHead`, its twin.

    Source: Devlin et al. (arXiv 1810.04805), section 4.2.
    """

    @checked()
    def __init__(self, embed_dim: int, dropout: float = 0.0):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(embed_dim, 2)

    def forward(self, x: Tensor) -> SpanLogits:
        """`(t, d)` or `(b, t, d)` to both scores of each token."""
        return SpanLogits(*self.linear(self.dropout(x)).unbind(-1))
