"""The leaves that torch does not have as they are needed here."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torch_ref.checks import checked, require_known

# Torch's own, under the names of their Flax twins: a `Part` looks for both in one place.
Dropout, Embedding, LayerNorm, Linear = nn.Dropout, nn.Embedding, nn.LayerNorm, nn.Linear


class RMSNorm(nn.Module):
    """`x / sqrt(mean(x²) + eps) * weight` over the last axis; `* (1 + weight)` with `unit_offset`, as Gemma.

    See `jax_attn.nn.primitives.RMSNorm`, its twin. `torch.nn.RMSNorm` has no offset, and another default for `eps`.

    Source: Zhang and Sennrich (arXiv 1910.07467); the offset is of Gemma (arXiv 2403.08295).
    """

    @checked()
    def __init__(self, normalized_shape: int, eps: float = 1e-6, unit_offset: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.full((normalized_shape,), 0.0 if unit_offset else 1.0))
        self.eps = eps
        self.unit_offset = unit_offset

    def forward(self, x: Tensor) -> Tensor:
        """`(..., normalized_shape)` to the same shape."""
        wide = torch.promote_types(x.dtype, torch.float32)
        scale = self.weight.to(wide)
        normalized = F.rms_norm(x.to(wide), scale.shape, 1 + scale if self.unit_offset else scale, self.eps)
        return normalized.to(x.dtype)


NORMS: dict[str, Callable[..., nn.Module]] = {
    "layer": nn.LayerNorm,
    "layer_without_bias": partial(nn.LayerNorm, bias=False),
    "rms": RMSNorm,
    "rms_unit_offset": partial(RMSNorm, unit_offset=True),
}


def make_norm(kind: str, width: int, eps: float | None = None) -> Any:
    """Build a normalisation by its name; see `jax_attn.nn.primitives.make_norm`."""
    require_known("norm", kind, NORMS)
    return NORMS[kind](width, **({} if eps is None else {"eps": eps}))


def masked_softmax(
    scores: Tensor,
    mask: Tensor | None = None,
    is_causal: bool = False,
    window: int | None = None,
    segment_ids: Tensor | None = None,
) -> Tensor:
    """Softmax of scores `(b, n, t, s)` over the keys that may be seen; 0 where none may.

    `mask` is `(b, s)`, `(b, t, s)` or `(b, n, t, s)`, True = attend. A window and segments `(b, t)` are for
    self-attention: a token sees those less than `window` from it, and those of its own segment.
    """
    allowed = torch.ones_like(scores, dtype=torch.bool)
    if is_causal:
        allowed = allowed.tril()
    if window is not None:
        query, key = (torch.arange(size, device=scores.device) for size in scores.shape[-2:])
        allowed = allowed & ((query[:, None] - key).abs() < window)
    if segment_ids is not None:
        allowed = allowed & (segment_ids[:, None, :, None] == segment_ids[:, None, None])
    if mask is not None:
        allowed = allowed & mask.reshape(mask.shape[0], *(1,) * (4 - mask.ndim), *mask.shape[1:])
    closed = ~allowed.any(dim=-1, keepdim=True)  # there the softmax would be NaN
    scores = scores.masked_fill(~allowed, -torch.inf).masked_fill(closed, 0.0)
    return torch.softmax(scores, dim=-1).masked_fill(closed, 0.0)
