"""Torch's fused attention and the same in single steps: equal outputs and gradients."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from jax_attn.parity.runners.torch_attention import attention_written_out


def draw(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(len(shape) + sum(shape))
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


ALLOWED = draw(2, 1, 3, 7) > 0
ALLOWED[0, 0, 1] = False  # a query that sees nothing
ADDED = torch.zeros(2, 1, 3, 7, dtype=torch.float64).masked_fill(~ALLOWED, -torch.inf)


@pytest.mark.parametrize(
    ("kv_heads", "options"),
    [
        (4, {}),
        (4, {"scale": 0.3}),
        (4, {"is_causal": True}),
        (4, {"attn_mask": ALLOWED}),
        (4, {"attn_mask": ADDED}),
        (4, {"attn_mask": ADDED + draw(3, 7)}),
        (2, {"enable_gqa": True, "attn_mask": ALLOWED}),
    ],
    ids=["plain", "scale", "causal", "boolean", "additive", "bias", "grouped"],
)
def test_equals_the_fused(kv_heads, options):
    shapes = (2, 4, 3, 5), (2, kv_heads, 7, 5), (2, kv_heads, 7, 6)
    inputs = [draw(*shape).requires_grad_() for shape in shapes]
    found = []
    for attention in (attention_written_out, scaled_dot_product_attention):
        output = attention(*inputs, **options)
        found.append([output, *torch.autograd.grad((output * draw(*output.shape)).sum(), inputs)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
