"""Layers one after another."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torch_ref.checks import checked


class Stack(nn.Module):
    """`norm(layer_n(... layer_1(x)))`: layers that are given built, one after another.

    See `jax_attn.nn.layers.stack.Stack`, its twin, for the arguments. `scan`, `remat` and `period` change how that
    one is compiled, not what it computes, and mean nothing here.

    Source: Vaswani et al. (arXiv 1706.03762), section 3.1.
    """

    @checked()
    def __init__(
        self,
        layers: Sequence[Any],
        norm: Any = None,
        positions: Any = None,
        dropout: float = 0.0,
        repeats: int = 1,
        *,
        scan: bool = False,
        remat: bool = False,
        period: int = 1,
    ):
        super().__init__()
        self.layers: Any = nn.ModuleList(layers)
        self.repeats = repeats
        self.norm = norm
        self.positions = positions
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, *shared: Any, cache: Any = None, **options: Any) -> Any:
        """Run the layers; each is called as `layer(x, *shared, **options)`, with its own part of a cache."""
        if self.positions is not None:
            options["bias"] = self.bias(x, cache, options.get("positions")) + options.get("bias", 0.0)
        new = []
        for index, layer in enumerate([*self.layers] * self.repeats):
            if cache is None:
                x = layer(x, *shared, **options)
            else:
                x, part = layer(x, *shared, cache=cache[index], **options)
                new.append(part)
        x = self.dropout(x if self.norm is None else self.norm(x))
        return x if cache is None else (x, new)

    def bias(self, x: Tensor, cache: Any, positions: Tensor | None) -> Tensor:
        """The biases that all layers share; what the cache holds stands before the tokens."""
        past = 0 if cache is None else cache[0][0].shape[2]
        at = torch.arange(past, past + x.shape[-2], device=x.device)
        at = at if positions is None else positions
        of_keys = at if cache is None else torch.arange(past + x.shape[-2], device=x.device)
        shared = self.positions.bias(x, 1.0, torch.atleast_2d(at), torch.atleast_2d(of_keys))
        return shared[0] if x.ndim == 2 else shared

    def init_cache(self, batch: int) -> list[Any]:
        """What each layer keeps of no tokens."""
        return [layer.init_cache(batch) for layer in self.layers]
