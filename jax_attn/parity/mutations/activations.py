"""Mutations of activations: one taken for another, or gate and values in each other's place."""

from collections.abc import Callable
from functools import partial
from typing import Any

from jax_attn.parity.mutations.injection import PASS, Forward, Hits, uses, watch
from jax_attn.parity.mutations.mutation import Mutation

Formula = Callable[[Any], Any]


def _torch() -> Any:
    import torch

    return torch


FORMULAS: dict[str, Formula] = {
    "erf GELU": lambda x: _torch().nn.functional.gelu(x),
    "tanh GELU": lambda x: _torch().nn.functional.gelu(x, approximate="tanh"),
    "x sigmoid(1.702 x)": lambda x: x * (1.702 * x).sigmoid(),
    "ReLU": lambda x: x.relu(),
    "ReLU6": lambda x: x.clamp(0, 6),
    "ReLU²": lambda x: x.relu() ** 2,
    "SiLU": lambda x: x * x.sigmoid(),
    "leaky ReLU (0.01)": lambda x: _torch().nn.functional.leaky_relu(x),
    "tanh": lambda x: x.tanh(),
    "sigmoid": lambda x: x.sigmoid(),
    "none": lambda x: x * 1,
}
WORDS = {"relu": "ReLU", "relu_": "ReLU", "silu": "SiLU", "silu_": "SiLU", "tanh": "tanh", "relu6": "ReLU6"}
CALLED = {
    "GELU": ("gelu",),
    "ReLU": ("relu", "relu_"),
    "SiLU": ("silu", "silu_"),
    "tanh": ("tanh",),
    "leaky ReLU": ("leaky_relu", "leaky_relu_"),
}
CLASSES = {"GELU": "GELU", "ReLU": "ReLU", "SiLU": "SiLU", "tanh": "Tanh", "leaky ReLU": "LeakyReLU"}


def word_of(name: str, args: Any, kwargs: Any) -> str:
    """What an activation that torch is called for is called."""
    if name == "gelu":
        return "tanh GELU" if kwargs.get("approximate") == "tanh" else "erf GELU"
    if name.startswith("leaky_relu"):
        return f"leaky ReLU ({kwargs.get('negative_slope', args[1] if len(args) > 1 else 0.01):g})"
    return WORDS[name]


def _instead(source: str, target: str) -> Callable[[Any, Hits], None]:
    """`target` where `source` is called."""

    def caught(forward: Forward, name: str, function: Any, args: Any, kwargs: Any) -> Any:
        if name not in CALLED[source]:
            return PASS
        word = word_of(name, args, kwargs)
        wanted = target
        if target == "the other GELU":
            wanted = {"tanh GELU": "erf GELU", "erf GELU": "tanh GELU"}[word]
        if wanted == word:
            return PASS
        forward.hits.add(wanted, word)
        return FORMULAS[wanted](args[0])

    return lambda module, hits: watch(module, caught, hits)


def gate_and_values(
    forward: Forward, name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """`act(b) a` for `act(a) b`."""
    activated = forward.state.setdefault("activated", {})
    if any(name in names for names in CALLED.values()) or name == "sigmoid":
        value = function(*args, **kwargs)
        activated[id(value)] = value, lambda x: function(x, *args[1:], **kwargs), args[0]
        return value
    if name in ("mul", "__mul__", "__rmul__") and all(hasattr(arg, "shape") for arg in args[:2]):
        for gate, other in (args[:2], args[1::-1]):
            found = activated.get(id(gate))
            if found and other.shape == gate.shape and other is not found[2]:
                forward.hits.add("act(up) gate", "act(gate) up")
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
]

FIXTURES = {"GELU": "feed-forward-gelu", "ReLU": "feed-forward-relu", "SiLU": "decoder layer",
            "leaky ReLU": "image layer", "tanh": "pooler"}  # fmt: skip
EVERY = (*(name for names in CALLED.values() for name in names), *CLASSES.values(), "sigmoid")
_mutation = partial(Mutation, family="layers")

ACTIVATIONS = [
    *(_mutation(name, f"{target} for {source}", "activation", uses(*CALLED[source], CLASSES[source]),
                _instead(source, target), pitfalls=(1,), on=(FIXTURES[source],))
      for name, source, target in TAKEN),
    _mutation("gate-swapped", "of a gated layer, the activation is taken of the other half", "activation",
              uses(*EVERY), lambda module, hits: watch(module, gate_and_values, hits), on=("decoder layer",)),
]  # fmt: skip
