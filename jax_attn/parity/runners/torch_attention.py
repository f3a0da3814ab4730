"""Torch's fused attention in single steps, for those who have to reach in between."""

from typing import Any


def attention_written_out(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """`torch.nn.functional.scaled_dot_product_attention`, with the same arguments.

    A row in which everything is hidden comes to 0, as in torch.
    """
    import torch

    if enable_gqa:
        groups = query.shape[-3] // key.shape[-3]
        key, value = key.repeat_interleave(groups, -3), value.repeat_interleave(groups, -3)
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    hidden = None
    if is_causal:
        hidden = ~torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(hidden, -torch.inf)
    elif attn_mask is not None and attn_mask.dtype == torch.bool:
        hidden = ~attn_mask
        scores = scores.masked_fill(hidden, -torch.inf)
    elif attn_mask is not None:
        hidden = attn_mask == -torch.inf
        scores = scores + attn_mask
    empty = (scores == -torch.inf).all(-1, keepdim=True)  # its softmax would be NaN, and its gradient too
    weights = torch.softmax(scores.masked_fill(empty, 0.0), -1)
    if hidden is not None:
        weights = weights.masked_fill(hidden, 0.0)
    # By its name in torch, where a tape may wait.
    return torch.nn.functional.dropout(weights, dropout_p) @ value if dropout_p else weights @ value
