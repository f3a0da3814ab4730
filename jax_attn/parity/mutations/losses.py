"""Mutations of losses: what is averaged, over what, and of which logarithm."""

from collections.abc import Callable
from functools import partial
from typing import Any

from jax_attn.parity.mutations.injection import Forward, calling, uses
from jax_attn.parity.mutations.mutation import Mutation

ARGUMENTS = {
    "cross_entropy": (
        "input", "target", "weight", "size_average", "ignore_index", "reduce", "reduction", "label_smoothing"
    ),
    "mse_loss": ("input", "target", "size_average", "reduce", "reduction"),
}  # fmt: skip


def _given(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    return {**dict(zip(ARGUMENTS[name], args, strict=False)), **kwargs}


def _with(name: str, argument: str, change: Callable[[Any, dict[str, Any]], Any], default: Any) -> Any:
    """A loss with another value of one of its arguments."""

    def caught(forward: Forward, function: Any, args: Any, kwargs: Any) -> Any:
        given = _given(name, args, kwargs)
        right = given.get(argument, default)
        given[argument] = change(right, given)
        if given[argument] != right:
            forward.hits.add(f"{argument} {given[argument]}", f"{right}")
        return function(**given)

    return calling((name,), caught)


def _other_reduction(right: str, given: dict[str, Any]) -> str:
    return "sum" if right == "mean" else "mean"


def _as_probabilities(forward: Forward, function: Any, args: Any, kwargs: Any) -> Any:
    given = _given("cross_entropy", args, kwargs)
    forward.hits.add("softmax first, and then its logarithm", "log-softmax")
    given["input"] = given["input"].softmax(1 if given["input"].ndim > 1 else 0)
    return function(**given)


def _over_all(forward: Forward, function: Any, args: Any, kwargs: Any) -> Any:
    given = _given("cross_entropy", args, kwargs)
    if given.get("reduction", "mean") != "mean":
        return function(**given)
    forward.hits.add("over all rows", "over the rows that are not ignored")
    return function(**{**given, "reduction": "sum"}) / given["target"].numel()


def _half(forward: Forward, function: Any, args: Any, kwargs: Any) -> Any:
    forward.hits.add("half of it", "mean of squares")
    return function(*args, **kwargs) / 2


_mutation = partial(Mutation, family="losses")


ENTROPY, SQUARES = uses("cross_entropy"), uses("mse_loss")

LOSSES = [
    _mutation("loss-reduction", "a sum for a mean, or the other way round", "reduction", ENTROPY,
           _with("cross_entropy", "reduction", _other_reduction, "mean"), pitfalls=(37,), on=("losses",)),
    _mutation("loss-ignore-index", "no label is ignored: one that is negative becomes class 0", "ignore_index",
           ENTROPY, calling(("cross_entropy",), lambda forward, function, args, kwargs:
                            _not_ignored(forward, function, args, kwargs)), pitfalls=(36,), on=("losses",)),
    _mutation("loss-mean-of-all", "a masked mean over all rows", "denominator", ENTROPY,
           calling(("cross_entropy",), _over_all), pitfalls=(37,), on=("losses",)),
    _mutation("loss-smoothing", "no label smoothing", "label_smoothing", ENTROPY,
           _with("cross_entropy", "label_smoothing", lambda right, given: 0.0, 0.0), on=("losses",)),
    _mutation("loss-softmax", "cross-entropy of probabilities, as if they were logits", "logits", ENTROPY,
           calling(("cross_entropy",), _as_probabilities), on=("losses",)),
    _mutation("loss-half", "half of the mean of squares", "factor", SQUARES, calling(("mse_loss",), _half),
           pitfalls=(38,), on=("losses",)),
]  # fmt: skip


def _not_ignored(forward: Forward, function: Any, args: Any, kwargs: Any) -> Any:
    given = _given("cross_entropy", args, kwargs)
    ignored = given["target"] == given.get("ignore_index", -100)
    if ignored.any():
        forward.hits.add("none", f"{given.get('ignore_index', -100)}")
    return function(**{**given, "target": given["target"].masked_fill(ignored, 0)})
