"""What an optax state holds: the moments under torch's names, and the learning rate."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jax_attn.parity.runners.flax_runner import dotted
from jax_attn.parity.training.weights import TrainedWeights

# What optax calls otherwise: the names that torch has for it, in one optimizer or another.
TORCH_NAMES = {
    "mu": ("exp_avg", "grad_avg"),
    "nu": ("exp_avg_sq", "square_avg"),
    "trace": ("momentum_buffer",),
    "sum_of_squares": ("sum",),
    "e_g": ("square_avg",),
    "e_x": ("acc_delta",),
}

# Kept before the learning rate or after it, as the chain has it: where every update agrees, another value
# here is the same thing written in another way.
EITHER_WAY = ("trace",)

RATES = ("learning_rate", "lr")


def moments(state: Any, weights: TrainedWeights) -> dict[str, dict[str, np.ndarray]]:
    """By optax's name and torch key: every field of the state that has a tensor for each weight.

    Under `optax.masked` and `optax.partition` a part of the state knows some of the weights; the parts are
    put together.
    """
    found: dict[str, dict[int, Any]] = {}
    for name, value in _fields(state):
        found.setdefault(name, {}).update(_leaves(value, weights))
    by_key = {name: weights.to_torch(leaves) for name, leaves in found.items() if leaves}
    return {name: tensors for name, tensors in by_key.items() if tensors}


def torch_name(name: str, known: Any) -> str | None:
    """Which of torch's moments (`known`) optax's `name` is; None if none."""
    return next((each for each in TORCH_NAMES.get(name, (name,)) if each in known), None)


def learning_rate(state: Any) -> float | None:
    """The rate that `optax.inject_hyperparams` last used; None where the state does not hold one."""
    for name, value in _fields(state):
        if name == "hyperparams" and isinstance(value, Mapping):
            rate = next((value[key] for key in RATES if key in value), None)
            if rate is not None and np.ndim(rate) == 0:
                return float(rate)
    return None


def _fields(state: Any) -> Iterator[tuple[str, Any]]:
    """Every named value of NamedTuples within the state, however deep."""
    if isinstance(state, tuple) and hasattr(state, "_fields"):
        for name, value in zip(state._fields, state, strict=True):
            yield name, value
            yield from _fields(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from _fields(value)
    elif isinstance(state, Mapping):
        for value in state.values():
            yield from _fields(value)


def _leaves(value: Any, weights: TrainedWeights) -> dict[int, Any]:
    """The leaves of a tree of weights by their position; none if it is another kind of tree."""
    paths, _ = jax.tree_util.tree_flatten_with_path(value)
    found = {}
    for path, leaf in paths:
        if not all(hasattr(key, "key") for key in path):  # a tuple or NamedTuple: looked into by itself
            return {}
        position = weights.positions.get(dotted(path))
        if position is None or np.shape(leaf) != np.shape(weights.leaves[position]):
            return {}
        found[position] = leaf
    return found
