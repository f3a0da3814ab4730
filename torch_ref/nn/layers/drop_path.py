"""A branch that is left out by chance."""

from torch import Tensor, nn
from torch.nn import functional as F

from torch_ref.checks import checked


class DropPath(nn.Module):
    """Stochastic depth: zeroes a whole sequence with probability `p`, and scales the others by `1 / (1 - p)`.

    See `jax_attn.nn.layers.drop_path.DropPath`, its twin.

    Source: Huang et al. (arXiv 1603.09382).
    """

    @checked()
    def __init__(self, p: float = 0.0):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """`(t, d)` or `(b, t, d)` to the same shape."""
        return x * F.dropout(x.new_ones(*x.shape[:-2], 1, 1), self.p, self.training)
