"""From a sequence of vectors to one score for each class and token."""

from torch import Tensor, nn


class TokenClassificationHead(nn.Module):
    """`dropout(x) W + b` for each token, such as whether it belongs to a name.

    See `jax_attn.nn.layers.token_classification_head.TokenClassificationHead`, its twin.

    Source: Devlin et al. (arXiv 1810.04805), section 5.3.
    """

    def __init__(self, embed_dim: int, num_classes: int, dropout: float = 0.0):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(embed_dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """`(t, d)` to logits `(t, num_classes)`, or the same with a batch axis before."""
        return self.linear(self.dropout(x))
