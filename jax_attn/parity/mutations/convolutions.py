"""Mutations of convolutions: where a stride leaves the rest of an image."""

from typing import Any

from jax_attn.parity.mutations.injection import Hits, wrapping
from jax_attn.parity.mutations.mutation import Mutation


def _strided(module: Any) -> list[Any]:
    """Convolutions with a stride that fill up with zeros, as numbers say."""
    import torch

    own = torch.nn.modules.conv
    return [
        conv
        for conv in module.modules()
        if isinstance(conv, own._ConvNd)
        and not isinstance(conv, own._ConvTransposeNd)
        and max(conv.stride) > 1
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
    ]


def padded_same(hits: Hits, conv: Any, forward: Any, x: Any) -> Any:
    """JAX's `SAME` for numbers: what does not come out even goes to the end. The shape is the same."""
    import torch

    pads = []
    given = zip(x.shape[2:], conv.kernel_size, conv.stride, conv.dilation, strict=True)
    for size, kernel, stride, dilation in given:
        total = max((-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size, 0)
        pads.append((total // 2, total - total // 2))
    y = forward(x)
    same_shape = y.shape[2:] == tuple(-(-n // s) for n, s in zip(x.shape[2:], conv.stride, strict=True))
    if not same_shape or pads == [(p, p) for p in conv.padding]:
        return y
    hits.add(f"SAME, which is {pads}", f"padding={conv.padding}")
    x = torch.nn.functional.pad(x, [n for pair in reversed(pads) for n in pair])
    padding, conv.padding = conv.padding, (0,) * len(pads)
    try:
        return forward(x)
    finally:
        conv.padding = padding


CONVOLUTIONS = [
    Mutation("padding-same", "SAME in a convolution with a stride, for a padding in numbers", "padding",
             _strided, wrapping(_strided, padded_same), family="layers", on=("image layer",)),
]  # fmt: skip
