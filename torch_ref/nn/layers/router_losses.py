"""The losses of the routers of a whole model, by layer and name."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor, nn


class RouterLosses(NamedTuple):
    """What is added to the loss of a model, each times a small factor."""

    load_balance: Tensor
    z: Tensor


def capture_router_losses(model: nn.Module) -> Callable[..., tuple[Any, dict[str, tuple[RouterLosses, ...]]]]:
    """Call a model as it is, and get by path the losses of each call of all its `MixtureOfExperts` too."""

    def call(*args: Any, **kwargs: Any) -> tuple[Any, dict[str, tuple[RouterLosses, ...]]]:
        losses: dict[str, tuple[RouterLosses, ...]] = {}
        layers = {path: each for path, each in model.named_modules() if hasattr(each, "keep_losses")}
        for path, layer in layers.items():
            layer.keep_losses = lambda of_call, path=path: losses.update(
                {path: (*losses.get(path, ()), of_call)}
            )
        try:
            return model(*args, **kwargs), losses
        finally:
            for layer in layers.values():
                layer.keep_losses = None

    return call
