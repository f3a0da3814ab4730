"""From a sequence of vectors to one score for each class."""

from torch import Tensor, nn


class ClassificationHead(nn.Module):
    """`dropout(x[0]) W + b`: the first token's vector, which has attended to all others, decides.

    See `jax_attn.nn.layers.classification_head.ClassificationHead`, its twin.

    Source: "Natural Language Processing with Transformers", ch. 3.
    """

    def __init__(self, embed_dim: int, num_classes: int, dropout: float = 0.0):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(embed_dim, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """`(t, d)` to logits `(num_classes,)`, or `(b, t, d)` to `(b, num_classes)`."""
        return self.linear(self.dropout(x[..., 0, :]))
