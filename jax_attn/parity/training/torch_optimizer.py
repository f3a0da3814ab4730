"""Builds the torch optimizer that a comparison is given, for parameters of its own."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any


def build_optimizer(given: Any, parameters: list[Any]) -> tuple[Any, Any]:
    """An optimizer, and its scheduler or None.

    Args:
        given: an optimizer, or a function that takes parameters and returns one, or one and its scheduler.
        parameters: what the function gets.

    Raises:
        ValueError: it is something else, or its scheduler goes by a metric.
    """
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import ReduceLROnPlateau

    built = given(parameters) if callable(given) else given
    if isinstance(given, tuple):
        raise ValueError(
            "torch's optimizer must be given as a function that takes parameters and returns it and its "
            "scheduler, got the two themselves: neither can be moved to other parameters"
        )
    optimizer, scheduler = built if isinstance(built, tuple) and len(built) == 2 else (built, None)
    if not isinstance(optimizer, Optimizer):
        raise ValueError(
            "torch's optimizer must be a torch.optim.Optimizer, or a function that takes parameters and "
            f"returns one, or one and its scheduler, got {type(optimizer).__name__}"
        )
    if isinstance(scheduler, ReduceLROnPlateau):
        raise ValueError(
            "torch's scheduler must be one that is stepped after every update, got ReduceLROnPlateau, which "
            "goes by a metric; leave it out on both sides, and compare the training between two of its steps"
        )
    return optimizer, scheduler


def rebuilt(optimizer: Any, counterpart: Mapping[int, Any], parameters: Sequence[Any] = ()) -> Any:
    """The same class with the same groups, and no state yet.

    Args:
        optimizer: what to build anew.
        counterpart: the new parameter for the id of each old one.
        parameters: of the only group, in place of its own.

    Raises:
        ValueError: a scheduler is attached to it, which would be lost.
    """
    if any("initial_lr" in group for group in optimizer.param_groups):
        raise ValueError(
            "torch's optimizer has a scheduler (its groups hold initial_lr), which would be lost; give a "
            "function that takes parameters and returns an optimizer and its scheduler"
        )
    groups = [
        {**group, "params": list(parameters) or [counterpart.get(id(p), p) for p in group["params"]]}
        for group in optimizer.param_groups
    ]
    accepted = inspect.signature(type(optimizer)).parameters
    defaults = {name: value for name, value in optimizer.defaults.items() if name in accepted}
    return type(optimizer)(groups, **defaults)
