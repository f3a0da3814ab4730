"""Mutations of activations: one taken for another, or gate and values in each other's place."""

from collections.abc import Callable
from typing import Any

from jax_attn.parity.mutations.calls import uses
from jax_attn.parity.mutations.injection import PASS, TorchCall, calling, watching
from jax_attn.parity.mutations.mutation import Injector, Mutation

Formula = Callable[[Any], Any]


def _functional(name: str, **options: Any) -> Formula:
    def formula(x: Any) -> Any:
        import torch

        return getattr(torch.nn.functional, name)(x, **options)

    return formula


FORMULAS: dict[str, Formula] = {
    "erf GELU": _functional("gelu"),
    "tanh GELU": _functional("gelu", approximate="tanh"),
    "x sigmoid(1.702 x)": lambda x: x * (1.702 * x).sigmoid(),
    "ReLU": lambda x: x.relu(),
    "ReLU6": lambda x: x.clamp(0, 6),
    "ReLU²": lambda x: x.relu() ** 2,
    "SiLU": lambda x: x * x.sigmoid(),
    "ELU": _functional("elu"),
    "leaky ReLU (0.01)": _functional("leaky_relu"),
    "softplus": _functional("softplus"),
    "Mish": _functional("mish"),
    "tanh": lambda x: x.tanh(),
    "sigmoid": lambda x: x.sigmoid(),
    "none": lambda x: x * 1,
}
WORDS = {"relu": "ReLU", "relu_": "ReLU", "silu": "SiLU", "silu_": "SiLU", "tanh": "tanh", "tanh_": "tanh",
         "sigmoid": "sigmoid", "sigmoid_": "sigmoid"}  # fmt: skip
# The functions and the class that stand for each, and the fixture that has it.
CALLED = {
    "GELU": ("gelu", "GELU"),
    "ReLU": ("relu", "relu_", "ReLU"),
    "SiLU": ("silu", "silu_", "SiLU"),
    "tanh": ("tanh", "tanh_", "Tanh"),
    "sigmoid": ("sigmoid", "sigmoid_", "Sigmoid"),
    "leaky ReLU": ("leaky_relu", "leaky_relu_", "LeakyReLU"),
}
FIXTURES = {"GELU": "feed-forward-gelu", "ReLU": "feed-forward-relu", "SiLU": "decoder layer",
            "leaky ReLU": "image layer", "tanh": "pooler", "sigmoid": "feed-forward-glu"}  # fmt: skip
EVERY = set().union(*CALLED.values())


def word_of(call: TorchCall) -> str:
    """What the activation that torch is called for is called."""
    if call.name == "gelu":
        return "tanh GELU" if call.kwargs.get("approximate") == "tanh" else "erf GELU"
    if call.name.startswith("leaky_relu"):
        return f"leaky ReLU ({call.named('input', 'negative_slope').get('negative_slope', 0.01):g})"
    return WORDS[call.name]


def _instead(source: str, target: str) -> Injector:
    """`target` where `source` is called."""

    def change(call: TorchCall) -> Any:
        word = word_of(call)
        wanted = target
        if target == "the other GELU":
            wanted = {"tanh GELU": "erf GELU", "erf GELU": "tanh GELU"}[word]
        if wanted == word:
            return PASS
        call.hits.add(wanted, word)
        return FORMULAS[wanted](call.args[0])

    return watching(_uncapped(change)) if source == "tanh" else calling(CALLED[source], change)


def _uncapped(change: Callable[[TorchCall], Any]) -> Callable[[TorchCall], Any]:
    """The change of a tanh that is no soft-cap: not of what was divided by a number."""

    def unless(call: TorchCall) -> Any:
        quotients = call.state.setdefault("quotients", {})
        if divides_by_number(call):
            value = call.run()
            quotients[id(value)] = value
            return value
        of_quotient = bool(call.args) and id(call.args[0]) in quotients
        return change(call) if call.name in CALLED["tanh"] and not of_quotient else PASS

    return unless


def divides_by_number(call: TorchCall) -> bool:
    """Whether a call divides a tensor by a number."""
    numbers = [value for value in call.args[1:2] if isinstance(value, int | float)]
    return call.name in ("div", "__truediv__", "true_divide") and bool(numbers)


def gate_and_values(call: TorchCall) -> Any:
    """`act(b) a` for `act(a) b`."""
    activated = call.state.setdefault("activated", {})
    args = call.args
    if call.name in EVERY:
        value = call.run()
        activated[id(value)] = value, lambda x: call.function(x, *args[1:], **call.kwargs), args[0]
        return value
    if call.name in ("mul", "__mul__", "__rmul__") and all(hasattr(arg, "shape") for arg in args[:2]):
        for gate, other in (args[:2], args[1::-1]):
            found = activated.get(id(gate))
            if found and other.shape == gate.shape and other is not found[2]:
                call.hits.add("act(up) gate", "act(gate) up")
                return found[1](other) * found[2]
    return PASS


# (mutation, what torch calls, what takes its place)
TAKEN = [
    ("gelu-form", "GELU", "the other GELU"),
    ("gelu-sigmoid", "GELU", "x sigmoid(1.702 x)"),
    ("relu-for-gelu", "GELU", "ReLU"),
    ("relu6-for-gelu", "GELU", "ReLU6"),
    ("silu-for-gelu", "GELU", "SiLU"),
    ("none-for-gelu", "GELU", "none"),
    ("gelu-for-relu", "ReLU", "erf GELU"),
    ("tanh-gelu-for-relu", "ReLU", "tanh GELU"),
    ("silu-for-relu", "ReLU", "SiLU"),
    ("relu6-for-relu", "ReLU", "ReLU6"),
    ("squared-relu", "ReLU", "ReLU²"),
    ("leaky-for-relu", "ReLU", "leaky ReLU (0.01)"),
    ("none-for-relu", "ReLU", "none"),
    ("gelu-for-silu", "SiLU", "erf GELU"),
    ("tanh-gelu-for-silu", "SiLU", "tanh GELU"),
    ("gelu-sigmoid-for-silu", "SiLU", "x sigmoid(1.702 x)"),
    ("relu-for-silu", "SiLU", "ReLU"),
    ("sigmoid-for-silu", "SiLU", "sigmoid"),
    ("none-for-silu", "SiLU", "none"),
    ("leaky-slope", "leaky ReLU", "leaky ReLU (0.01)"),
    ("relu-for-leaky", "leaky ReLU", "ReLU"),
    ("pooler-tanh", "tanh", "none"),
    ("none-for-sigmoid", "sigmoid", "none"),
    ("silu-for-sigmoid", "sigmoid", "SiLU"),
]

ACTIVATIONS = [
    *(Mutation(name, f"{target} for {source}", "activation", uses(*CALLED[source]), _instead(source, target),
               family="layers", on=(FIXTURES[source], *(["feed-forward-geglu"] if name == "gelu-form" else [])))
      for name, source, target in TAKEN),
    Mutation("gate-swapped", "of a gated layer, the activation is taken of the other half", "activation",
             uses(*EVERY), watching(gate_and_values), family="layers", on=("decoder layer",)),
]  # fmt: skip
