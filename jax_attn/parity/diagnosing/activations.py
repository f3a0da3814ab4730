"""Activations, distinguished by what they make of a few numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from jax_attn.parity.mutations.activations import FORMULAS
from jax_attn.weights.tensors import as_numpy

POINTS = np.array([-3.0, -1.7, -0.5, 0.25, 1.0, 2.5])
# Loose enough for float32: the two forms of GELU are 1e-4 apart on these points.
CLOSE = 1e-5


@dataclass(frozen=True)
class Activation:
    """An activation.

    Attributes:
        word: what it is called.
        values: what it makes of `POINTS`; None where that is not known.
    """

    word: str
    values: tuple[float, ...] | None = None

    def agrees(self, other: "Activation") -> bool:
        """Whether both do the same, as far as that is known."""
        if self.values is None or other.values is None:
            return self.word == other.word
        return np.allclose(self.values, other.values, rtol=CLOSE, atol=CLOSE)

    def __str__(self) -> str:
        return self.word


def activation_of(given: Any) -> Activation | None:
    """The activation that a name, a function, a module or None stands for; None where it is none of them."""
    if isinstance(given, str):
        word = WORDS.get(given.lower(), given)
        return Activation(word, _numbers(_known(word)) if word in FORMULAS else None)
    if given is None:
        return Activation("none", _numbers(POINTS))
    values = _values(given) if callable(given) else None
    if values is None or values.shape != POINTS.shape:
        return None
    for word in FORMULAS:
        if np.allclose(values, _known(word), rtol=CLOSE, atol=CLOSE):
            return Activation(word, _numbers(values))
    return Activation(_name(given), _numbers(values))


WORDS = {
    "gelu": "erf GELU",
    "gelu_new": "tanh GELU",
    "gelu_tanh": "tanh GELU",
    "gelu_pytorch_tanh": "tanh GELU",
    "gelu_approx": "tanh GELU",
    "gelu_fast": "tanh GELU",
    "quick_gelu": "x sigmoid(1.702 x)",
    "relu": "ReLU",
    "silu": "SiLU",
    "swish": "SiLU",
    "mish": "Mish",
    "linear": "none",
    "identity": "none",
}


def _numbers(values: np.ndarray) -> tuple[float, ...]:
    return tuple(map(float, values))


def _known(word: str) -> np.ndarray:
    import torch

    return FORMULAS[word](torch.tensor(POINTS)).numpy()


def _name(activation: Any) -> str:
    """A name for what has none of the known: a module with its settings, a function by its own name."""
    function = getattr(activation, "func", activation)
    named = getattr(function, "__name__", "")
    return named if named and named != "<lambda>" else " ".join(str(activation).split())[:60]


def _values(activation: Callable[..., Any]) -> np.ndarray | None:
    """What it makes of the numbers, in the framework whose numbers it takes."""
    try:
        import torch

        with torch.no_grad():
            return np.asarray(as_numpy(activation(torch.tensor(POINTS))), np.float64)
    except Exception:
        pass
    try:
        return np.asarray(activation(jnp.asarray(POINTS)), np.float64)
    except Exception:
        return None
