"""From a sequence of vectors to one score for each class and token."""

from torch import Tensor, nn

from torch_ref.checks import checked
from torch_ref.nn.layers.feed_forward import ACTIVATIONS


class TokenClassificationHead(nn.Module):
    """`dropout(x) W + b` for each token, such as whether it belongs to a name.

    See `jax_attn.nn.layers.token_classification_head.TokenClassificationHead`, its twin.

    Source: Devlin et al. (arXiv 1810.04805), section 5.3; Clark et al. (arXiv 2003.10555), in its code.
    """

    @checked(activation=ACTIVATIONS)
    def __init__(
        self,
        embed_dim: int,
        num_classes: int | None,
        dropout: float = 0.0,
        dense: bool = False,
        activation: str = "gelu",
    ):
        super().__init__()
        self.num_classes = num_classes
        self.activation = ACTIVATIONS[activation]
        self.dense = nn.Linear(embed_dim, embed_dim) if dense else None
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(embed_dim, 1 if num_classes is None else num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """`(t, d)` to logits `(t, num_classes)`, or `(t,)` where that is None; or with a batch axis before."""
        x = x if self.dense is None else self.activation(self.dense(x))
        logits = self.linear(self.dropout(x))
        return logits[..., 0] if self.num_classes is None else logits
