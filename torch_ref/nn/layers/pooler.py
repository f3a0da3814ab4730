"""One vector for a sequence."""

import torch
from torch import Tensor, nn

from torch_ref.checks import checked
from torch_ref.nn.layers.feed_forward import ACTIVATIONS


class Pooler(nn.Module):
    """`activation(pool(x) W + b)`, or `pool(x)` without `dense`.

    See `jax_attn.nn.layers.pooler.Pooler`, its twin, for the arguments.

    Source: Devlin et al. (arXiv 1810.04805), appendix A; the dense layer and tanh are in its code. Reimers and
    Gurevych (arXiv 1908.10084), section 3.
    """

    @checked(kind=("first", "last", "mean", "max"), activation=ACTIVATIONS)
    def __init__(self, embed_dim: int, kind: str = "first", dense: bool = True, activation: str = "tanh"):
        super().__init__()
        self.kind = kind
        self.activation = ACTIVATIONS[activation]
        self.dense = nn.Linear(embed_dim, embed_dim) if dense else None

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """`(t, d)` to `(d,)`, or `(b, t, d)` to `(b, d)`; the mask is True where a token stands."""
        pooled = pool(self.kind, x, mask)
        return pooled if self.dense is None else self.activation(self.dense(pooled))


def pool(kind: str, x: Tensor, mask: Tensor | None) -> Tensor:
    """The vector of the first or of the last token of the mask, or their mean or maximum; 0 of none."""
    if mask is None and kind == "first":
        return x[..., 0, :]
    mask = torch.ones(x.shape[:-1], dtype=torch.bool) if mask is None else mask
    kept = mask[..., None]
    real = kept.any(-2)
    if kind == "mean":
        return torch.where(kept, x, 0).sum(-2) / kept.sum(-2).clamp(min=1)
    if kind == "max":
        return torch.where(real, torch.where(kept, x, -torch.inf).amax(-2), 0)
    count = mask.cumsum(-1)
    wanted = 1 if kind == "first" else count[..., -1:]
    chosen = mask & (count == wanted)
    return torch.where(chosen[..., None], x, 0).sum(-2)
