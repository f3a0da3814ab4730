"""Layers one after another."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn


class Stack(nn.Module):
    """`norm(layer_n(... layer_1(x)))`: layers that are given built, one after another.

    See `jax_attn.nn.layers.stack.Stack`, its twin, for the arguments. `scan`, `remat` and `period` change how that
    one is compiled, not what it computes, and mean nothing here.

    Source: Vaswani et al. (arXiv 1706.03762), section 3.1.
    """

    def __init__(
        self,
        layers: Sequence[Any],
        norm: Any = None,
        *,
        scan: bool = False,
        remat: bool = False,
        period: int = 1,
    ):
        super().__init__()
        self.layers: Any = nn.ModuleList(layers)
        self.norm = norm

    def forward(self, x: Tensor, *shared: Any, cache: Any = None, **options: Any) -> Any:
        """Run the layers; each is called as `layer(x, *shared, **options)`, with its own part of a cache."""
        new = []
        for index, layer in enumerate(self.layers):
            if cache is None:
                x = layer(x, *shared, **options)
            else:
                x, part = layer(x, *shared, cache=cache[index], **options)
                new.append(part)
        x = x if self.norm is None else self.norm(x)
        return x if cache is None else (x, new)

    def init_cache(self, batch: int) -> list[Any]:
        """What each layer keeps of no tokens."""
        return [layer.init_cache(batch) for layer in self.layers]
