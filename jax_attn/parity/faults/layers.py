"""Faults of layers: dropout, axes, and gradients that stop."""

from collections.abc import Callable
from functools import partial
from typing import Any

from jax_attn.parity.faults.fault import Fault
from jax_attn.parity.faults.planting import Acts, wrap


def _torch() -> Any:
    import torch

    return torch


# Dropout.


def _dropouts(module: Any) -> list[Any]:
    return [d for d in module.modules() if isinstance(d, _torch().nn.Dropout) and 0 < d.p < 1]


def dropout_planter(around: Callable[..., Any] | None, rate: Callable[[float], float] | None = None) -> Any:
    """Changes every dropout: `around(module, forward, x)`, or its rate."""

    def planter(module: Any, acts: Acts) -> None:
        for dropout in _dropouts(module):
            if rate is not None:
                acts.add(f"{rate(dropout.p):g}", f"{dropout.p:g}")
                dropout.p = rate(dropout.p)
            if around is not None:
                wrap(dropout, partial(around, acts))

    return planter


def unscaled(acts: Acts, module: Any, forward: Any, x: Any) -> Any:
    """What is kept is not scaled up."""
    y = forward(x)
    if not module.training:
        return y
    acts.add("what is kept stays as it is", f"it is divided by {1 - module.p:g}")
    return y * (1 - module.p)


def always_scaled(acts: Acts, module: Any, forward: Any, x: Any) -> Any:
    """Scaled down in evaluation, as dropout was first described."""
    y = forward(x)
    if not module.training:
        acts.add(f"times {1 - module.p:g} in evaluation", "as it is")
        return y * (1 - module.p)
    return y * (1 - module.p)


# What a layer does with its input.


def axes_swapped(module: Any, acts: Acts) -> None:
    """Batch and sequence change places."""

    def swap(x: Any) -> Any:
        return x.transpose(0, 1) if getattr(x, "ndim", 0) == 3 else x

    def around(module: Any, forward: Any, *args: Any, **kwargs: Any) -> Any:
        if not any(getattr(arg, "ndim", 0) == 3 for arg in args):
            return forward(*args, **kwargs)
        acts.add("(t, b, d)", "(b, t, d)")
        value = forward(*map(swap, args), **kwargs)
        return type(value)(map(swap, value)) if type(value) is tuple else swap(value)

    wrap(module, around)


def input_detached(module: Any, acts: Acts) -> None:
    """The last linear layer's input gets no gradient."""

    def around(linear: Any, forward: Any, x: Any) -> Any:
        acts.add("stopped", "passed on")
        return forward(x.detach())

    wrap(_linears(module)[-1], around)


def _linears(module: Any) -> list[Any]:
    return [child for child in module.modules() if isinstance(child, _torch().nn.Linear)]


def _fault(
    name: str,
    summary: str,
    setting: str,
    fits: Callable[[Any], bool],
    planter: Callable[[Any, Acts], None],
    *pitfalls: int,
    lane: str = "float64",
) -> Fault:
    return Fault(name, summary, "layers", setting, fits, planter, pitfalls, lane)


DROPOUT = "dropout"

LAYERS = [
    _fault("axes-swapped", "batch and sequence change places", "axes",
           lambda module: True, axes_swapped, 20),
    _fault("input-constant", "no gradient passes through a linear layer", "gradient of an input",
           lambda module: bool(_linears(module)), input_detached, 35),
    _fault("dropout-rate", "dropout at another rate", "dropout rate", lambda m: bool(_dropouts(m)),
           dropout_planter(None, lambda rate: rate / 2), 45, lane="dropout"),
    _fault("dropout-missing", "no dropout", "dropout rate", lambda m: bool(_dropouts(m)),
           dropout_planter(None, lambda rate: 0.0), 45, lane="dropout"),
    _fault("dropout-unscaled", "dropout that does not scale up what it keeps", DROPOUT,
           lambda m: bool(_dropouts(m)), dropout_planter(unscaled), 45, lane="dropout"),
    _fault("dropout-in-evaluation", "dropout that scales down in evaluation, not up in training", DROPOUT,
           lambda m: bool(_dropouts(m)), dropout_planter(always_scaled), 45),
]  # fmt: skip
