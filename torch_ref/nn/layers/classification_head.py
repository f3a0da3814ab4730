"""From a sequence of vectors to one score for each class."""

from torch import Tensor, nn

from torch_ref.checks import checked
from torch_ref.nn.layers.feed_forward import ACTIVATIONS
from torch_ref.nn.layers.pooler import Pooler


class ClassificationHead(nn.Module):
    """`dropout(pool(x)) W + b`; by default the first token's vector, which has attended to all others, decides.

    See `jax_attn.nn.layers.classification_head.ClassificationHead`, its twin, for the arguments.

    Source: "Natural Language Processing with Transformers", ch. 3; Liu et al. (arXiv 1907.11692), in its code.
    """

    @checked(activation=ACTIVATIONS)
    def __init__(
        self,
        embed_dim: int,
        num_classes: int,
        dropout: float = 0.0,
        pooling: str | None = "first",
        dense: bool = False,
        activation: str = "tanh",
        input_dropout: float | None = None,
        bias: bool = True,
    ):
        super().__init__()
        self.pooler = None if pooling is None else Pooler(embed_dim, pooling, dense=False)
        self.activation = ACTIVATIONS[activation]
        self.input_dropout = nn.Dropout(dropout if input_dropout is None else input_dropout)
        self.dense = nn.Linear(embed_dim, embed_dim) if dense else None
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(embed_dim, num_classes, bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`(t, d)` to logits `(num_classes,)`, or `(b, t, d)` to `(b, num_classes)`; the mask as in `Pooler`."""
        x = x if self.pooler is None else self.pooler(x, mask)
        if self.dense is not None:
            x = self.activation(self.dense(self.input_dropout(x)))
        return self.linear(self.dropout(x))
