"""Weights: torch `state_dict`s and checkpoint folders into NNX modules, and back."""

from jax_attn.weights.errors import StateDictError
from jax_attn.weights.pretrained import from_config, from_pretrained
from jax_attn.weights.rules import TorchLayout, slots
from jax_attn.weights.saving import save_pretrained
from jax_attn.weights.state_dict import load_state_dict, numpy_state_dict, state_dict

__all__ = [
    "StateDictError",
    "TorchLayout",
    "from_config",
    "from_pretrained",
    "load_state_dict",
    "numpy_state_dict",
    "save_pretrained",
    "slots",
    "state_dict",
]


def __dir__() -> list[str]:
    return __all__
