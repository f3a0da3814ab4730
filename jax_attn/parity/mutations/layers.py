"""Mutations of layers: dropout and axes."""

from collections.abc import Callable
from typing import Any

from jax_attn.parity.mutations.calls import is_attention
from jax_attn.parity.mutations.injection import LOOKED_AT, PASS, Hits, TorchCall, watch, wrap, wrapping
from jax_attn.parity.mutations.mutation import Injector, Mutation


def _torch() -> Any:
    import torch

    return torch


# Dropout.


def _dropouts(module: Any) -> list[Any]:
    return [d for d in module.modules() if isinstance(d, _torch().nn.Dropout) and 0 < d.p < 1]


def rate(other: Callable[[float], float]) -> Injector:
    """Every dropout has another rate."""

    def injector(module: Any, hits: Hits) -> None:
        for dropout in _dropouts(module):
            hits.add(f"{other(dropout.p):g}", f"{dropout.p:g}")
            dropout.p = other(dropout.p)

    return injector


def unscaled(hits: Hits, module: Any, forward: Any, x: Any) -> Any:
    """What is kept is not scaled up."""
    if not module.training:
        return forward(x)
    hits.add("what is kept stays as it is", f"it is divided by {1 - module.p:g}")
    return forward(x) * (1 - module.p)


def always_scaled(hits: Hits, module: Any, forward: Any, x: Any) -> Any:
    """Scaled down in evaluation, as dropout was first described."""
    if not module.training:
        hits.add(f"times {1 - module.p:g} in evaluation", "as it is")
    return forward(x) * (1 - module.p)


def shared(hits: Hits, module: Any, forward: Any, x: Any) -> Any:
    """Of attention weights `(b, ..., t, s)`, one mask for all batches and heads."""
    y = forward(x)
    if not module.training or not _are_weights(x) or y.shape[:-2].numel() == 1:
        return y
    hits.add("one mask for all batches and heads", "one for each")
    kept = _torch().where(x != 0, y / x, 0.0).detach()  # of a weight of 0, it is all the same
    return x * kept[(0,) * (x.ndim - 2)]


def _are_weights(x: Any) -> bool:
    """Whether each row adds up to 1, or is empty."""
    sums = x.detach().sum(-1).double()
    ones = (sums - 1).abs() < 0.05  # in bfloat16
    return x.ndim > 2 and bool((x >= 0).all()) and bool((ones | (sums == 0)).all()) and bool(ones.any())


# Functions that dropout may change places with.
VIEWS = "view", "reshape", "flatten", "unflatten", "contiguous"
CASTS = "to", "type", "type_as", "float", "double"


def _earlier(module: Any, hits: Hits) -> None:
    """Dropout before the function whose value it is given: the same mask, where the shape is the same."""
    made: dict[int, tuple[TorchCall, Any, Any]] = {}  # by what is passed on: the call, and its own value

    def around(dropout: Any, forward: Any, x: Any) -> Any:
        if not dropout.training:
            return forward(x)
        factor = forward(_torch().ones_like(x))
        if id(x) not in made:
            return x * factor
        call, value, _ = made[id(x)]
        at = next((i for i in reversed(range(len(call.args))) if _is_like(call.args[i], value)), None)
        if at is None:
            return x * factor
        hits.add(f"before {call.function.__name__}", f"after {call.function.__name__}")
        dropped = call.args[at] * factor.reshape(value.shape)
        return call.function(*_with(call.args, at, dropped), **call.kwargs).reshape(x.shape).to(x.dtype)

    def caught(call: TorchCall) -> Any:
        if call.name in LOOKED_AT:
            return PASS
        if not call.state:  # another forward pass
            made.clear()
            call.state["began"] = True
        value = call.run()
        before = made.get(id(call.args[0])) if call.args and call.name in VIEWS + CASTS else None
        made[id(value)] = (*(before or (call, value))[:2], value)
        return value

    for dropout in _dropouts(module):
        wrap(dropout, around)
    watch(module, caught, hits)


def _later(module: Any, hits: Hits) -> None:
    """Dropout after the function that is given its value: the same mask, where the shape is the same."""
    dropped: dict[int, tuple[Any, Any, Any]] = {}

    def around(dropout: Any, forward: Any, x: Any) -> Any:
        if not dropout.training:
            return forward(x)
        factor = forward(_torch().ones_like(x))
        y = x * factor
        dropped[id(y)] = y, x, factor
        return y

    def caught(call: TorchCall) -> Any:
        at = next((i for i, arg in enumerate(call.args) if id(arg) in dropped), None)
        if call.name in LOOKED_AT or at is None:
            return PASS
        _, x, factor = dropped[id(call.args[at])]
        value = call.function(*_with(call.args, at, x), **call.kwargs)
        if not _is_like(value, x):
            return PASS
        hits.add(f"after {call.name}", f"before {call.name}")
        return value * factor

    for dropout in _dropouts(module):
        wrap(dropout, around)
    watch(module, caught, hits)


def _with(args: tuple[Any, ...], at: int, value: Any) -> tuple[Any, ...]:
    return (*args[:at], value, *args[at + 1 :])


def _is_like(value: Any, x: Any) -> bool:
    torch = _torch()
    plain = isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter)
    return plain and value.is_floating_point() and value.shape == x.shape


# What a layer does with its input.


def axes_swapped(hits: Hits, module: Any, forward: Any, *args: Any, **kwargs: Any) -> Any:
    """Batch and sequence change places."""

    def swap(x: Any) -> Any:
        return x.transpose(0, 1) if getattr(x, "ndim", 0) == 3 else x

    if not any(getattr(arg, "ndim", 0) == 3 for arg in args):
        return forward(*args, **kwargs)
    hits.add("(t, b, d)", "(b, t, d)")
    value = forward(*map(swap, args), **kwargs)
    return type(value)(map(swap, value)) if type(value) is tuple else swap(value)


def _dropout(
    name: str, summary: str, setting: str, injector: Injector, *, on: tuple[str, ...], lane: str = "dropout"
) -> Mutation:
    return Mutation(name, summary, setting, _dropouts, injector, family="layers", lane=lane, on=on)


FEED_FORWARD, POST = ("feed-forward-gelu",), ("encoder-layer-post",)

LAYERS = [
    Mutation("axes-swapped", "batch and sequence change places", "axes", lambda module: True,
             wrapping(lambda module: [module], axes_swapped), family="layers", on=("sdpa",)),
    _dropout("dropout-rate", "dropout at another rate", "dropout rate", rate(lambda p: p / 2),
             on=("feed-forward-gelu", "classification-head")),
    _dropout("dropout-missing", "no dropout", "dropout rate", rate(lambda p: 0.0), on=FEED_FORWARD),
    _dropout("dropout-unscaled", "dropout that does not scale up what it keeps", "dropout",
             wrapping(_dropouts, unscaled), on=FEED_FORWARD),
    Mutation("dropout-shared", "attention weights of all batches and heads dropped by one mask", "dropout",
             lambda module: is_attention(module) and _dropouts(module), wrapping(_dropouts, shared),
             family="layers", lane="dropout", on=("attention-masked",)),
    _dropout("dropout-later", "dropout one step later", "order of dropout", _later, on=POST),
    _dropout("dropout-earlier", "dropout one step earlier", "order of dropout", _earlier, on=POST),
    _dropout("dropout-in-evaluation", "dropout that scales down in evaluation, not up in training", "dropout",
             wrapping(_dropouts, always_scaled), lane="float64", on=FEED_FORWARD),
]  # fmt: skip
