"""Mutations of differential attention: its two softmaxes, their difference, and the factors of heads."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

from jax_attn.parity.mutations.calls import MULTIPLY, is_attention, uses
from jax_attn.parity.mutations.injection import PASS, TorchCall, watching
from jax_attn.parity.mutations.marks import Marks, tensor_and_number
from jax_attn.parity.mutations.mutation import Injector, Mutation
from jax_attn.parity.mutations.points import FILLS, SUMS

LEFT_AS_THEY_ARE = ("dropout", "dropout_", "nan_to_num", *FILLS)
TAKE_OFF = ("sub", "__sub__", "subtract", "sub_")


def difference(word: str, right: str, other: Callable[[Any, Any, Any, float], Any]) -> Injector:
    """`other(first, second, factor, number)` for `first - factor * second` of two softmaxes.

    `number` is what was added to make the factor, 0 if nothing was; a factor of None is 1.
    """

    def change(call: TorchCall) -> Any:
        soft, made, weighted = (Marks(call, kind) for kind in ("softmaxes", "factors", "weighted"))
        if call.name == "softmax":
            return soft.put(call.run(), True)
        if call.name in SUMS and (found := _scalar_and_number(call)):
            return made.put(call.run(), found[1])
        if call.name in MULTIPLY:
            for factor, weights in (call.args[:2], call.args[1::-1]):
                if soft.of(weights) and hasattr(factor, "shape") and not soft.of(factor):
                    weighted.put(value := call.run(), (weights, factor, made.of(factor) or 0.0))
                    return value
        if call.name in TAKE_OFF and len(call.args) > 1 and soft.of(call.args[0]):
            first, second = call.args[:2]
            known = weighted.of(second) or ((second, None, 0.0) if soft.of(second) else None)
            value = PASS if known is None else other(first, *known)
            if value is not PASS:
                call.hits.add(word, right)
                return value
        return soft.carried(call, *LEFT_AS_THEY_ARE)

    return watching(change)


def _scalar_and_number(call: TorchCall) -> tuple[Any, float] | None:
    """A tensor of one number, and what is added to it."""
    found = tensor_and_number(call)
    return found if found and found[0].numel() == 1 else None


def _with_factor(other: Callable[[Any, Any, Any, float], Any]) -> Callable[[Any, Any, Any, float], Any]:
    return lambda first, second, factor, number: (
        PASS if factor is None else other(first, second, factor, number)
    )


def paired_in_turn(*, weights_alone: bool) -> Injector:
    """Heads `2 i` and `2 i + 1` make a pair, not `i` and `i + n / 2`."""

    def change(call: TorchCall) -> Any:
        soft = Marks(call, "softmaxes")
        if call.name == "softmax":
            return soft.put(call.run(), True)
        if call.name == "chunk" and (len(call.args) < 2 or call.args[1] == 2):
            x = call.args[0]
            dim = call.named("x", "chunks", "dim").get("dim", 0)
            if x.ndim == 4 and dim in (1, -3) and x.shape[1] > 2 and (soft.of(x) or not weights_alone):
                which = "the weights of heads" if weights_alone else "heads"
                call.hits.add(f"{which} 2 i and 2 i + 1 make a pair", "heads i and i + n / 2 make a pair")
                return x[:, 0::2], x[:, 1::2]
        return soft.carried(call, *LEFT_AS_THEY_ARE)

    return watching(change)


def layer_counted(by: int) -> Injector:
    """λ0 of another layer, in both of its places: in λ, and in the factor `1 - λ0` of the heads."""

    def change(call: TorchCall) -> Any:
        found = tensor_and_number(call) if call.name in (*SUMS, *MULTIPLY) else None
        if found is None:
            return PASS
        value, number = found
        if call.name in SUMS and value.numel() == 1 and (layer := _layer_of(number)) is not None:
            if layer + by < 0:
                return PASS
            call.state["λ0"] = number
            call.hits.add(f"as of layer {layer + by}", f"as of layer {layer}")
            return value + _initial(layer + by)
        if call.name in MULTIPLY and number == 1 - call.state.get("λ0", math.nan):
            return value * (1 - _initial(round(_layer_of(1 - number) or 0) + by))
        return PASS

    return watching(change)


def _initial(layer: int) -> float:
    return 0.8 - 0.6 * math.exp(-0.3 * layer)


def _layer_of(number: float) -> int | None:
    """The layer whose λ0 a number is."""
    if not 0.1 < number < 0.8:
        return None
    layer = -math.log((0.8 - number) / 0.6) / 0.3
    return round(layer) if abs(layer - round(layer)) < 1e-6 else None


NORMS = ("rms_norm", "layer_norm", "group_norm")


def norm_unscaled(call: TorchCall) -> Any:
    """What a norm gives, for a number times it."""
    normed = Marks(call, "normed")
    if call.name in NORMS:
        return normed.put(call.run(), True)
    found = tensor_and_number(call) if call.name in MULTIPLY else None
    if found and normed.of(found[0]) and found[1] != 1:
        call.hits.add("none", f"{found[1]:.4g}")
        return found[0] * 1
    return PASS


def without_norm(call: TorchCall) -> Any:
    """`x` for a norm of it that has nothing to learn."""
    if call.name not in NORMS or call.named("x", "shape", "weight").get("weight") is not None:
        return PASS
    call.hits.add("none", call.name)
    return call.args[0] * 1


_mutation = partial(Mutation, family="attention", on=("attention-differential",))
MINUS, FACTOR, PAIRS = "softmax 1 - λ softmax 2", "factor of the second softmax", "pairs of heads"


def _subtracts(module: Any) -> bool:
    return is_attention(module) and uses(*TAKE_OFF)(module)


def _minus(name: str, summary: str, word: str, other: Callable[[Any, Any, Any, float], Any]) -> Mutation:
    return _mutation(name, summary, FACTOR, _subtracts, difference(word, MINUS, other))


DIFFERENTIAL = [
    _minus("second-softmax-missing", "of the difference of two softmaxes the second is left out", "softmax 1",
           lambda first, second, factor, number: first * 1),
    _minus("second-softmax-added", "the second softmax is added, not taken off", "softmax 1 + λ softmax 2",
           lambda first, second, factor, number: first + (second if factor is None else factor * second)),
    _minus("second-softmax-unweighted", "the second softmax is taken off whole", "softmax 1 - softmax 2",
           _with_factor(lambda first, second, factor, number: first - second)),
    _minus("lambda-init-missing", "the λ of a difference of softmaxes without its initial value", "λ without λ0",
           _with_factor(lambda first, second, factor, number:
                        first - (factor - number) * second if number else PASS)),
    _mutation("lambda-layer-one-on", "λ0 as of the next layer: layers are counted from 1", "λ0", _subtracts,
              layer_counted(1)),
    _mutation("lambda-layer-one-back", "λ0 as of the layer before", "λ0", _subtracts, layer_counted(-1)),
    _mutation("heads-paired-in-turn", "neighbouring heads make a pair, not those half of the heads apart", PAIRS,
              uses("chunk"), paired_in_turn(weights_alone=False)),
    _mutation("weights-paired-in-turn", "the weights of neighbouring heads make a pair, and values do not", PAIRS,
              uses("chunk"), paired_in_turn(weights_alone=True)),
    _mutation("norm-unscaled", "what a normalisation gives is not multiplied by a number", "factor of a norm",
              uses(*NORMS), watching(norm_unscaled)),
    _mutation("plain-norm-missing", "a normalisation that has no weight is left out", "normalisation",
              uses(*NORMS), watching(without_norm)),
]  # fmt: skip
