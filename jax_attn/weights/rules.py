"""Where each variable of an NNX module lives in a torch `state_dict`: one generic rule and a few tables.

The rule: the NNX path, joined by dots, is the torch key; `kernel` becomes `weight`, transposed; `scale` and
`embedding` become `weight`; everything else keeps its name and its layout. The tables at the head of this
file hold what flax and torch lay out differently; a port of your own is told apart by `names`.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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
    """How one tensor is turned between the two frameworks. Both directions are linear, so gradients pass too."""

    to_torch: Callable[[np.ndarray], np.ndarray]
    to_flax: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]


SAME = Layout(lambda array: array, lambda array, shape: array)
TRANSPOSED = Layout(lambda array: array.T, lambda array, shape: array.T)
# (spatial..., in, out) against (out, in, spatial...)
CONVOLUTION = Layout(
    lambda array: np.moveaxis(array, (-1, -2), (0, 1)),
    lambda array, shape: np.moveaxis(array, (0, 1), (-1, -2)),
)
FLATTENED = Layout(lambda array: array.reshape(-1), lambda array, shape: array.reshape(shape))


def general_linear(inputs: int) -> Layout:
    """`nnx.LinearGeneral`'s kernel `(*in, *out)` against `(prod(out), prod(in))`; `inputs` axes are inputs."""

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
    def layer_shape(self) -> tuple[int, ...]:
        """Shape of one layer's array in flax."""
        return tuple(self.variable.shape[1:] if self.stacked else self.variable.shape)

    @property
    def torch_shape(self) -> tuple[int, ...]:
        """Shape of one layer's tensor in torch (of this slot's part, where torch fuses several)."""
        # A view of one element with the shape in question: no memory, and the layout itself is the only truth.
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
    """
    return list(_walk(module, [], [], names))


def _walk(node: Any, path: list[str], keys: list[str], names: Names) -> Iterator[Slot]:
    renamed = _table(ATTRIBUTE_NAMES, node)
    fused = _table(FUSED_ATTRIBUTES, node)
    stacked = getattr(node, "stacked", ())
    for name, child in _children(node):
        here = [*path, name]
        if isinstance(child, nnx.Variable):
            if not isinstance(child, PASSED_OVER) and child.get_value() is not None:
                yield _slot(
                    node, name, child, here, [*keys, renamed.get(name, LEAF_NAMES.get(name, name))], names
                )
        elif name in fused:
            prefix, part, parts = fused[name]
            for slot in _walk(child, here, keys, ()):
                leaf = slot.places[0].key.rpartition(".")[2]
                place = Place(_rename(".".join([*keys, prefix + leaf]), names), part, parts)
                yield Slot(slot.path, slot.variable, (place,), slot.layout)
        elif name in stacked:
            for slot in _walk(child, here, [], ()):
                prefix = ".".join([*keys, name])
                places = tuple(
                    Place(_rename(f"{prefix}.{layer}.{place.key}", names), place.part, place.parts)
                    for layer in range(slot.variable.shape[0])
                    for place in slot.places
                )
                yield Slot(slot.path, slot.variable, places, slot.layout, stacked=True)
        else:
            own = renamed.get(name, name)
            yield from _walk(child, here, [*keys, own] if own else keys, names)


def _slot(
    owner: Any, name: str, variable: nnx.Variable, path: list[str], keys: list[str], names: Names
) -> Slot:
    place = Place(_rename(".".join(keys), names))
    return Slot(".".join(path), variable, (place,), _layout(owner, name))


def _layout(owner: Any, name: str) -> Layout:
    if isinstance(owner, nnx.LinearGeneral):
        return general_linear(len(owner.in_features)) if name == "kernel" else FLATTENED
    if isinstance(owner, nnx.Conv) and name == "kernel":
        return CONVOLUTION
    return TRANSPOSED if name == "kernel" else SAME


def _children(node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, list | tuple):
        items: Any = ((str(index), child) for index, child in enumerate(node))
    elif isinstance(node, dict):
        items = node.items()
    else:
        items = vars(node).items()
    for name, child in items:
        if isinstance(child, nnx.Variable | nnx.Pytree | list | tuple | dict) and not name.startswith(
            "_pytree"
        ):
            yield name, child


def _table(table: dict[type, dict[str, Any]], node: Any) -> dict[str, Any]:
    return next((row for kind, row in table.items() if isinstance(node, kind)), {})


def _rename(key: str, names: Names) -> str:
    for pattern, replacement in names:
        key = re.sub(pattern, replacement, key)
    return key
