"""What a module computes beside its tensors: the attributes of its parts, and where those of two modules differ."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
from flax import nnx

from jax_attn.functional.activations import ACTIVATIONS

# What no config describes: how a module is run and drawn, and not what it computes.
RUNNING = frozenset(
    [
        *("config", "deterministic", "dtype", "implementation", "param_dtype", "precision", "rngs", "remat"),
        *("bias_init", "embedding_init", "kernel_init", "preferred_element_type", "scale_init"),
        *("use_running_average",),
    ]
)


def differing_attributes(module: nnx.Module, other: nnx.Module) -> Iterator[tuple[str, str, str]]:
    """Yield the path of each attribute that differs, as text what it is in `module`, and what in `other`.

    Functions are compared by their names, and objects by their attributes: both modules were built anew. Parts that
    one of them lacks show in the attribute of the part that holds them.
    """
    counterparts = dict(nnx.iter_modules(other, graph=True))
    for path, part in nnx.iter_modules(module, graph=True):
        counterpart = counterparts.get(path)
        if counterpart is None:
            continue
        where = ".".join(map(str, path))
        if type(part) is not type(counterpart):
            yield where or "it", f"a {type(part).__name__}", f"a {type(counterpart).__name__}"
            continue
        ours, theirs = _attributes(part), _attributes(counterpart)
        for name in {**ours, **theirs}:
            one, two = ours.get(name), theirs.get(name)
            if not _same(one, two):
                yield f"{where}.{name}".lstrip("."), _text(one), _text(two)


def _attributes(part: nnx.Module) -> dict[str, Any]:
    return {
        name: value
        for name, value in vars(part).items()
        if name not in RUNNING and not name.startswith(("_pytree__", "_object__"))
    }


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, nnx.Variable | nnx.Module | nnx.List) or hasattr(one, "shape"):
        return other is not None  # tensors are compared by their keys, parts by themselves
    if type(one) is not type(other):
        return isinstance(one, int | float) and isinstance(other, int | float) and one == other
    if isinstance(one, str):  # an activation has several names
        return ACTIVATIONS.get(one, one) == ACTIVATIONS.get(other, other)
    if isinstance(one, partial):
        return all(map(_same, (one.func, one.args, one.keywords), (other.func, other.args, other.keywords)))
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(_same, one, other))
    if callable(one) and hasattr(one, "__qualname__"):
        return _text(one) == _text(other)
    if type(one).__eq__ is object.__eq__:
        return _same(getattr(one, "__dict__", {}), getattr(other, "__dict__", {}))
    return bool(np.all(one == other))


def _text(value: Any) -> str:
    if isinstance(value, partial):
        return _text(value.func)
    if isinstance(value, nnx.Module):
        return f"a {type(value).__name__}"
    return getattr(value, "__qualname__", None) or repr(value)
