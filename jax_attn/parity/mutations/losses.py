"""Mutations of losses: what is averaged, over what, and of which logarithm."""

from collections.abc import Callable
from typing import Any

from jax_attn.parity.mutations.calls import uses
from jax_attn.parity.mutations.injection import TorchCall, calling
from jax_attn.parity.mutations.mutation import Mutation

ARGUMENTS = (
    "input", "target", "weight", "size_average", "ignore_index", "reduce", "reduction", "label_smoothing"
)  # fmt: skip
DEFAULTS: dict[str, Any] = {"ignore_index": -100, "reduction": "mean", "label_smoothing": 0.0}


def _other(argument: str, change: Callable[[Any], Any]) -> Callable[[TorchCall], Any]:
    """Cross-entropy with another value of one of its arguments."""

    def caught(call: TorchCall) -> Any:
        given = DEFAULTS | call.named(*ARGUMENTS)
        right = given[argument]
        given[argument] = change(right)
        if given[argument] != right:
            call.hits.add(f"{argument} {given[argument]}", f"{right}")
        return call.function(**given)

    return caught


def _as_probabilities(call: TorchCall) -> Any:
    given = call.named(*ARGUMENTS)
    call.hits.add("softmax first, and then its logarithm", "log-softmax")
    given["input"] = given["input"].softmax(1 if given["input"].ndim > 1 else 0)
    return call.function(**given)


def _over_all(call: TorchCall) -> Any:
    given = DEFAULTS | call.named(*ARGUMENTS)
    if given["reduction"] != "mean":
        return call.function(**given)
    call.hits.add("over all rows", "over the rows that are not ignored")
    return call.function(**{**given, "reduction": "sum"}) / given["target"].numel()


def _not_ignored(call: TorchCall) -> Any:
    given = DEFAULTS | call.named(*ARGUMENTS)
    ignored = given["target"] == given["ignore_index"]
    if ignored.any():
        call.hits.add("none", f"{given['ignore_index']}")
    return call.function(**{**given, "target": given["target"].masked_fill(ignored, 0)})


def _half(call: TorchCall) -> Any:
    call.hits.add("half of it", "mean of squares")
    return call.run() / 2


def _mutation(
    name: str, summary: str, setting: str, change: Callable[[TorchCall], Any], of: str = "cross_entropy"
) -> Mutation:
    return Mutation(name, summary, setting, uses(of), calling((of,), change), family="losses", on=("losses",))


LOSSES = [
    _mutation("loss-reduction", "a sum for a mean, or the other way round", "reduction",
              _other("reduction", lambda right: "sum" if right == "mean" else "mean")),
    _mutation("loss-ignore-index", "no label is ignored: one that is negative becomes class 0", "ignore_index",
              _not_ignored),
    _mutation("loss-mean-of-all", "a masked mean over all rows", "denominator", _over_all),
    _mutation("loss-smoothing", "no label smoothing", "label_smoothing",
              _other("label_smoothing", lambda right: 0.0)),
    _mutation("loss-softmax", "cross-entropy of probabilities, as if they were logits", "logits",
              _as_probabilities),
    _mutation("loss-half", "half of the mean of squares", "factor", _half, of="mse_loss"),
]  # fmt: skip
