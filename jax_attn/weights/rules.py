"""Where each variable of an NNX module lives in a torch `state_dict`: one generic rule and a few tables.

The rule: the NNX path, joined by dots, is the torch key; `kernel` becomes `weight`, with its last two axes
swapped; `scale` and `embedding` become `weight`; everything else keeps its name and its layout. The tables at
the head of this file hold what flax and torch lay out differently; a port whose names differ passes `names`.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

Names = Sequence[tuple[str, str]]
"""Pairs (pattern, replacement) for `re.sub`, applied in turn to the generic torch key of every variable."""

LEAF_NAMES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}

# Attributes that torch calls otherwise. An empty name drops out of the key.
ATTRIBUTE_NAMES: dict[type, dict[str, str]] = {
    nnx.Sequential: {"layers": ""},
    nnx.BatchNorm: {"mean": "running_mean", "var": "running_var"},
    nnx.MultiHeadAttention: {"out": "out_proj"},
}

# Projections that torch keeps as equal parts of one tensor: attribute -> (prefix of its name, part, parts).
FUSED_ATTRIBUTES: dict[type, dict[str, tuple[str, int, int]]] = {
    nnx.MultiHeadAttention: {
        "query": ("in_proj_", 0, 3),
        "key": ("in_proj_", 1, 3),
        "value": ("in_proj_", 2, 3),
    },
}

# State that is neither weight nor buffer.
PASSED_OVER = (nnx.RngState, nnx.Intermediate, nnx.Cache)


@dataclass(frozen=True)
class Layout:
    """How one tensor is turned between the two frameworks; linear both ways, so gradients pass too."""

    to_torch: Callable[[np.ndarray], np.ndarray]
    to_flax: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]


SAME = Layout(lambda array: array, lambda array, shape: array)
TRANSPOSED = Layout(lambda array: array.swapaxes(-1, -2), lambda array, shape: array.swapaxes(-1, -2))
# (spatial..., in, out) against (out, in, spatial...)
CONVOLUTION = Layout(
    lambda array: np.moveaxis(array, (-1, -2), (0, 1)),
    lambda array, shape: np.moveaxis(array, (0, 1), (-1, -2)),
)
# (spatial..., in, out), mirrored, against (in, out, spatial...)
MIRRORED = Layout(
    lambda array: np.moveaxis(np.flip(array, tuple(range(array.ndim - 2))), (-2, -1), (0, 1)),
    lambda array, shape: np.flip(np.moveaxis(array, (0, 1), (-2, -1)), tuple(range(array.ndim - 2))),
)
FLATTENED = Layout(lambda array: array.reshape(-1), lambda array, shape: array.reshape(shape))


def general_linear(inputs: int) -> Layout:
    """`nnx.LinearGeneral`'s kernel `(*in, *out)` against `(prod(out), prod(in))`, with `inputs` axes in."""

    def to_torch(array: np.ndarray) -> np.ndarray:
        return array.reshape(math.prod(array.shape[:inputs]), -1).T

    return Layout(to_torch, lambda array, shape: array.T.reshape(shape))


@dataclass(frozen=True)
class Place:
    """One key of a `state_dict`, or the `part`-th of `parts` equal pieces of its first axis."""

    key: str
    part: int = 0
    parts: int = 1


@dataclass(frozen=True)
class Slot:
    """An NNX variable and where it lives in torch.

    Attributes:
        path: the NNX path, joined by dots.
        variable: the variable itself.
        places: its place in the `state_dict`; one for each layer where the variable is stacked.
        layout: how a layer's tensor is turned.
        stacked: whether the variable's first axis counts layers.
    """

    path: str
    variable: nnx.Variable
    places: tuple[Place, ...]
    layout: Layout
    stacked: bool = False

    @property
    def dtype(self) -> np.dtype[Any]:
        """The variable's dtype."""
        value = self.variable.get_value()
        return np.dtype(value.dtype if hasattr(value, "dtype") else jnp.result_type(value))

    @property
    def layer_shape(self) -> tuple[int, ...]:
        """Shape of one layer's array in flax."""
        shape = jnp.shape(self.variable.get_value())
        return shape[1:] if self.stacked else shape

    @property
    def torch_shape(self) -> tuple[int, ...]:
        """Shape of one layer's tensor in torch (of this slot's part, where torch fuses several)."""
        # A view of one element with the shape in question takes no memory.
        return self.layout.to_torch(np.broadcast_to(np.int8(0), self.layer_shape)).shape

    def to_torch(self, array: np.ndarray) -> list[np.ndarray]:
        """The flax array (or its gradient) as torch lays it out, one array for each place."""
        layers = list(array) if self.stacked else [array]
        return [self.layout.to_torch(layer) for layer in layers]

    def to_flax(self, tensors: Sequence[np.ndarray]) -> np.ndarray:
        """The inverse of `to_torch`."""
        layers = [self.layout.to_flax(tensor, self.layer_shape) for tensor in tensors]
        return np.stack(layers) if self.stacked else layers[0]


def slots(module: nnx.Module, names: Names = ()) -> list[Slot]:
    """Every weight and buffer of `module` with its place in a torch `state_dict`, in order of definition.

    A submodule whose leaves carry a leading layer axis (a scanned stack) is declared by its owner with
    `stacked = ("layers",)`: its leaves live at `layers.0`, `layers.1`, and so on.

    Raises:
        ValueError: `names` gives two variables the same key or is no list of pairs, or there is a stack
            within a stack.
    """
    require_names(names)
    table = [
        replace(slot, places=tuple(replace(place, key=rename(place.key, names)) for place in slot.places))
        for slot in _walk(module)
    ]
    taken: dict[Place, str] = {}
    for slot in table:
        for place in slot.places:
            if place in taken:
                raise ValueError(f"{taken[place]} and {slot.path} have the same torch key, {place.key}")
            taken[place] = slot.path
    return table


def require_names(names: Any) -> None:
    """A ValueError unless `names` is a list of pairs (pattern, replacement) that can be applied."""
    expected = 'a list of pairs (pattern, replacement), such as [(r"\\battn\\b", "attention")]'
    if isinstance(names, str) or not isinstance(names, Sequence):
        raise ValueError(f"names must be {expected}, got a {type(names).__name__}")
    for pair in names:
        if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(isinstance(x, str) for x in pair)):
            raise ValueError(f"names must be {expected}, got {pair!r} among them")
        try:
            re.compile(pair[0])
        except re.error as error:
            raise ValueError(f"names holds {pair!r}, which is no regular expression: {error}") from None


def _walk(node: Any) -> Iterator[Slot]:
    """The slots below `node`, with paths and generic keys as seen from it."""
    renamed, fused = _row(ATTRIBUTE_NAMES, node), _row(FUSED_ATTRIBUTES, node)
    stacked = getattr(node, "stacked", ())
    for name, child in _children(node):
        own = renamed.get(name, name)
        if isinstance(child, nnx.Variable):
            key = renamed.get(name, LEAF_NAMES.get(name, name))
            yield Slot(name, child, (Place(key),), _layout(node, name))
            continue
        for slot in _walk(child):
            path, (place, *others) = f"{name}.{slot.path}", slot.places
            if name in stacked:
                if slot.stacked:
                    raise ValueError(f"{type(node).__name__}.{path} is stacked twice, which is not supported")
                layers = range(jnp.shape(slot.variable.get_value())[0])
                places = tuple(replace(place, key=f"{own}.{layer}.{place.key}") for layer in layers)
                yield replace(slot, path=path, places=places, stacked=True)
            elif name in fused:
                prefix, part, parts = fused[name]
                yield replace(slot, path=path, places=(Place(prefix + place.key, part, parts),))
            else:
                places = tuple(replace(each, key=_join(own, each.key)) for each in (place, *others))
                yield replace(slot, path=path, places=places)


def _children(node: Any) -> Iterator[tuple[str, Any]]:
    """The variables and containers that `node` holds, by attribute, index or key."""
    if isinstance(node, list | tuple):
        items: Any = ((str(index), child) for index, child in enumerate(node))
    else:
        items = (node if isinstance(node, dict) else vars(node)).items()
    for name, child in items:
        if isinstance(child, nnx.Variable):
            if not isinstance(child, PASSED_OVER) and child.get_value() is not None:
                yield name, child
        elif isinstance(child, nnx.Pytree | list | tuple | dict) and not name.startswith("_pytree"):
            yield name, child


def _layout(owner: Any, name: str) -> Layout:
    if isinstance(owner, nnx.LinearGeneral):
        return general_linear(len(owner.in_features)) if name == "kernel" else FLATTENED
    if isinstance(owner, nnx.Conv) and name == "kernel":
        return CONVOLUTION
    if isinstance(owner, nnx.ConvTranspose) and name == "kernel":
        return CONVOLUTION if owner.transpose_kernel else MIRRORED  # which has out before in
    return TRANSPOSED if name == "kernel" else SAME


def _row(table: dict[type, dict[str, Any]], node: Any) -> dict[str, Any]:
    return next((row for kind, row in table.items() if isinstance(node, kind)), {})


def _join(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def rename(key: str, names: Names) -> str:
    """The key, once each pair of `names` has been applied."""
    for pattern, replacement in names:
        try:
            key = re.sub(pattern, replacement, key)
        except re.error as error:  # a group that the pattern does not have
            raise ValueError(f"names holds {(pattern, replacement)!r}, which cannot be: {error}") from None
    return key
