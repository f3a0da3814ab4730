"""Mutations of attention without a softmax: of its feature maps, and of what its weights are divided by."""

from collections.abc import Callable
from typing import Any

from jax_attn.parity.mutations.calls import MULTIPLY, is_attention, uses
from jax_attn.parity.mutations.differential import TAKE_OFF
from jax_attn.parity.mutations.injection import PASS, TorchCall, watching
from jax_attn.parity.mutations.marks import Marks, tensor_and_number
from jax_attn.parity.mutations.mutation import Injector, Mutation
from jax_attn.parity.mutations.points import FILLS, SUMS
from jax_attn.parity.mutations.score_sums import DIVIDE

# The map of Katharopoulos et al., written with `elu` or, to keep all digits below 0, with `where`.


def feature_map(word: str, other: Callable[[Any], Any]) -> Injector:
    """`other(x)` for `elu(x) + 1`."""

    def change(call: TorchCall) -> Any:
        bent, more = Marks(call, "elu"), Marks(call, "plus one")
        found = tensor_and_number(call) if call.name in SUMS else None
        if call.name == "elu":
            return bent.put(call.run(), call.args[:1])
        if found and found[1] == 1:
            if known := bent.of(found[0]):
                call.hits.add(word, "elu(x) + 1")
                return other(*known)
            return more.put(call.run(), found[:1])
        if call.name == "where" and len(call.args) > 2 and (known := more.of(call.args[1])):
            call.hits.add(word, "elu(x) + 1")
            return other(*known)
        return PASS

    return watching(change)


def _elu(x: Any) -> Any:
    import torch

    return torch.nn.functional.elu(x)


# Weights, and what they are divided by.


def normaliser(word: str, other: Callable[[Any, Any, Any], Any]) -> Injector:
    """`other(w, total, whole)` for `w / total`, of the sum of `w` along its rows; `whole` is `w` before the future
    was hidden, None if it was not."""

    def change(call: TorchCall) -> Any:
        lower, sums = Marks(call, "lower"), Marks(call, "sums")
        if call.name in ("tril", "tril_"):
            return lower.put(call.run(), call.args[:1])
        if call.name == "sum" and call.named("x", "dim", "keepdim").get("keepdim") and call.args[0].ndim > 2:
            return sums.put(call.run(), call.args[:1])
        if call.name in DIVIDE and len(call.args) > 1 and sums.of(call.args[1]):
            (w, total), (source,) = call.args[:2], sums.of(call.args[1])
            whole = lower.of(w)
            value = other(w, total, whole and whole[0]) if w is source else PASS
            if value is not PASS:
                call.hits.add(word, "w / Σ w")
            return value
        return sums.carried(call, "clamp", "clamp_min", *FILLS)

    return watching(change)


def _of_all(w: Any, total: Any, whole: Any) -> Any:
    return PASS if whole is None else w / whole.sum(-1, keepdim=True)


# Random features, and numbers that vectors are divided by.


def without_squares(call: TorchCall) -> Any:
    """`exp(y)` for `exp(y - |x|² / 2)`."""
    squares = Marks(call, "squares")
    if (
        call.name in MULTIPLY and len(call.args) > 1 and call.args[0] is call.args[1]
    ) or call.name == "square":
        return squares.put(call.run(), True)
    if call.name in ("pow", "__pow__") and call.args[1] == 2:
        return squares.put(call.run(), True)
    if call.name in TAKE_OFF and len(call.args) > 1 and squares.of(call.args[1]):
        call.hits.add("exp(ω x)", "exp(ω x - |x|² / 2)")
        return call.args[0] * 1
    found = tensor_and_number(call) if call.name in (*MULTIPLY, *DIVIDE) else None
    if call.name == "sum" or found:
        value, given = call.run(), found[0] if found else call.args[0]
        return squares.put(value, True) if squares.of(given) else value
    return PASS


def without_eps(call: TorchCall) -> Any:
    """`exp(x)` for `exp(x) + eps`."""
    powers = Marks(call, "powers")
    if call.name == "exp":
        return powers.put(call.run(), True)
    found = tensor_and_number(call) if call.name in SUMS else None
    if found and found[1] and powers.of(found[0]):
        call.hits.add("0", f"{found[1]:g}")
        return found[0] * 1
    return PASS


def undivided(call: TorchCall) -> Any:
    """`x` for `x / sqrt(width)`, or for a division by the root of that; features are no vectors of this kind."""
    powers = Marks(call, "powers")
    if call.name == "exp":
        return powers.put(call.run(), True)
    found = tensor_and_number(call) if call.name in (*SUMS, *DIVIDE) else None
    if found and powers.of(found[0]):
        return powers.put(call.run(), True)
    if found is None or call.name in SUMS or found[0].ndim < 3 or found[1] == 1:
        return PASS
    x, number = found
    for power in (0.5, 0.25):
        if abs(number - x.shape[-1] ** power) < 1e-9 * number:
            call.hits.add("x", f"x / {x.shape[-1]}^{power}")
            return x * 1
    return PASS


def _mutation(name: str, summary: str, setting: str, fits: Any, injector: Injector, *on: str) -> Mutation:
    return Mutation(name, summary, setting, fits, injector, family="attention", on=on)


def _map(name: str, summary: str, word: str, other: Callable[[Any], Any]) -> Mutation:
    return _mutation(name, summary, "feature map", uses("elu", "where"), feature_map(word, other), LINEAR)


LINEAR, PERFORMER = "attention-linear-causal", "attention-performer-causal"

FEATURES = [
    _map("features-missing", "queries and keys meet without a feature map", "x", lambda x: x * 1),
    _map("features-elu", "the feature map is elu, without 1 added", "elu(x)", _elu),
    _map("features-relu", "the feature map is ReLU", "relu(x)", lambda x: x.relu()),
    _mutation("normaliser-missing", "weights are not divided by their sum", "sum of weights", uses("sum"),
              normaliser("w", lambda w, total, whole: w * 1), LINEAR, PERFORMER),
    _mutation("normaliser-eps", "1e-6 is added to the sum of weights", "sum of weights", uses("sum"),
              normaliser("w / (Σ w + 1e-6)", lambda w, total, whole: w / (total + 1e-6)), LINEAR, PERFORMER),
    _mutation("normaliser-of-all", "causal weights are divided by the sum over all keys", "sum of weights",
              uses("tril"), normaliser("w / Σ w over later keys too", _of_all), LINEAR),
    _mutation("features-without-squares", "random features without |x|² / 2 in their exponent", "feature map",
              uses("exp"), watching(without_squares), PERFORMER),
    _mutation("features-eps", "nothing is added to random features", "eps", uses("exp"),
              watching(without_eps), PERFORMER),
    _mutation("vectors-undivided", "queries are not divided by a root of their width", "scale",
              lambda module: not is_attention(module), watching(undivided), PERFORMER, "gated-delta-net"),
]  # fmt: skip
