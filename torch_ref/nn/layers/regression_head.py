"""From a sequence of vectors to one number."""

from torch import Tensor

from torch_ref.checks import checked
from torch_ref.nn.layers.classification_head import ClassificationHead


class RegressionHead(ClassificationHead):
    """`dropout(pool(x)) w + b`, one number for a sequence, such as how alike two texts are.

    See `jax_attn.nn.layers.regression_head.RegressionHead`, its twin.

    Source: Devlin et al. (arXiv 1810.04805), section 4.1 (STS-B).
    """

    @checked()
    def __init__(
        self,
        embed_dim: int,
        dropout: float = 0.0,
        pooling: str = "first",
        dense: bool = False,
        activation: str = "tanh",
    ):
        super().__init__(embed_dim, 1, dropout, pooling, dense, activation)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`(t, d)` to a number, or `(b, t, d)` to `(b,)`; the mask as in `Pooler`."""
        return super().forward(x, mask)[..., 0]
