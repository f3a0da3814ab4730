"""Mutations of layers: dropout and axes."""

from collections.abc import Callable
from functools import partial
from typing import Any

from jax_attn.parity.mutations.injection import LOOKED_AT, PASS, Hits, is_attention, watch, wrap
from jax_attn.parity.mutations.mutation import Mutation


def _torch() -> Any:
    import torch

    return torch


# Dropout.


def _dropouts(module: Any) -> list[Any]:
    return [d for d in module.modules() if isinstance(d, _torch().nn.Dropout) and 0 < d.p < 1]


def dropout_injector(around: Callable[..., Any] | None, rate: Callable[[float], float] | None = None) -> Any:
    """Changes every dropout: `around(module, forward, x)`, or its rate."""

    def injector(module: Any, hits: Hits) -> None:
        for dropout in _dropouts(module):
            if rate is not None:
                hits.add(f"{rate(dropout.p):g}", f"{dropout.p:g}")
                dropout.p = rate(dropout.p)
            if around is not None:
                wrap(dropout, partial(around, hits))

    return injector


def unscaled(hits: Hits, module: Any, forward: Any, x: Any) -> Any:
    """What is kept is not scaled up."""
    y = forward(x)
    if not module.training:
        return y
    hits.add("what is kept stays as it is", f"it is divided by {1 - module.p:g}")
    return y * (1 - module.p)


def always_scaled(hits: Hits, module: Any, forward: Any, x: Any) -> Any:
    """Scaled down in evaluation, as dropout was first described."""
    y = forward(x)
    if not module.training:
        hits.add(f"times {1 - module.p:g} in evaluation", "as it is")
        return y * (1 - module.p)
    return y * (1 - module.p)


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


def displaced(later: bool) -> Callable[[Any, Hits], None]:
    """Dropout one step later, or one step earlier, than it is: the same mask, where the shape is the same."""

    def injector(module: Any, hits: Hits) -> None:
        last: dict[str, Any] = {}
        dropped: dict[int, tuple[Any, Any, Any]] = {}

        def around(dropout: Any, forward: Any, x: Any) -> Any:
            made = last.pop("made", None)
            if not dropout.training:
                return forward(x)
            factor = forward(_torch().ones_like(x))
            if later:
                y = x * factor
                dropped[id(y)] = y, x, factor
                return y
            if made is None or made[0] is not x:
                return x * factor
            _, function, args, kwargs = made
            at = next((i for i in reversed(range(len(args))) if _is_like(args[i], x)), None)
            if at is None:
                return x * factor
            hits.add(f"before {function.__name__}", f"after {function.__name__}")
            return function(*args[:at], args[at] * factor, *args[at + 1 :], **kwargs)

        def caught(forward: Any, name: str, function: Any, args: Any, kwargs: Any) -> Any:
            at = next((i for i, arg in enumerate(args) if id(arg) in dropped), None)
            if name in LOOKED_AT:
                return PASS
            if not later or at is None:
                value = function(*args, **kwargs)
                last["made"] = value, function, args, kwargs
                return value
            _, x, factor = dropped[id(args[at])]
            value = function(*args[:at], x, *args[at + 1 :], **kwargs)
            if not _is_like(value, x):
                return PASS
            hits.add(f"after {name}", f"before {name}")
            return value * factor

        for dropout in _dropouts(module):
            wrap(dropout, around)
        watch(module, caught, hits)

    return injector


def _is_like(value: Any, x: Any) -> bool:
    torch = _torch()
    plain = isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter)
    return plain and value.is_floating_point() and value.shape == x.shape


# What a layer does with its input.


def axes_swapped(module: Any, hits: Hits) -> None:
    """Batch and sequence change places."""

    def swap(x: Any) -> Any:
        return x.transpose(0, 1) if getattr(x, "ndim", 0) == 3 else x

    def around(module: Any, forward: Any, *args: Any, **kwargs: Any) -> Any:
        if not any(getattr(arg, "ndim", 0) == 3 for arg in args):
            return forward(*args, **kwargs)
        hits.add("(t, b, d)", "(b, t, d)")
        value = forward(*map(swap, args), **kwargs)
        return type(value)(map(swap, value)) if type(value) is tuple else swap(value)

    wrap(module, around)


_mutation = partial(Mutation, family="layers")


DROPOUT, ORDER = "dropout", "order of dropout"

LAYERS = [
    _mutation("axes-swapped", "batch and sequence change places", "axes",
           lambda module: True, axes_swapped, pitfalls=(20,), on=("sdpa",)),
    _mutation("dropout-rate", "dropout at another rate", "dropout rate", lambda m: bool(_dropouts(m)),
           dropout_injector(None, lambda rate: rate / 2), pitfalls=(45,), lane="dropout",
           on=("feed-forward-gelu", "classification-head")),
    _mutation("dropout-missing", "no dropout", "dropout rate", lambda m: bool(_dropouts(m)),
           dropout_injector(None, lambda rate: 0.0), pitfalls=(45,), lane="dropout", on=("feed-forward-gelu",)),
    _mutation("dropout-unscaled", "dropout that does not scale up what it keeps", DROPOUT,
           lambda m: bool(_dropouts(m)), dropout_injector(unscaled), pitfalls=(45,), lane="dropout",
           on=("feed-forward-gelu",)),
    _mutation("dropout-shared", "attention weights of all batches and heads dropped by one mask", DROPOUT,
           lambda m: is_attention(m) and bool(_dropouts(m)), dropout_injector(shared),
           pitfalls=(22,), lane="dropout", on=("attention-masked",)),
    _mutation("dropout-later", "dropout one step later", ORDER, lambda m: bool(_dropouts(m)),
           displaced(later=True), pitfalls=(45,), lane="dropout", on=("encoder-layer-post",)),
    _mutation("dropout-earlier", "dropout one step earlier", ORDER, lambda m: bool(_dropouts(m)),
           displaced(later=False), pitfalls=(45,), lane="dropout", on=("encoder-layer-post",)),
    _mutation("dropout-in-evaluation", "dropout that scales down in evaluation, not up in training", DROPOUT,
           lambda m: bool(_dropouts(m)), dropout_injector(always_scaled), pitfalls=(45,),
           on=("feed-forward-gelu",)),
]  # fmt: skip
