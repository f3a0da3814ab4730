"""Where each variable of an NNX module lives in a torch `state_dict`: one generic rule and a few tables.

The rule: the NNX path, joined by dots, is the torch key; `kernel` becomes `weight`, with its last two axes
swapped; `scale` and `embedding` become `weight`; everything else keeps its name and its layout. The tables at
the head of this file hold what flax and torch lay out differently; a port whose names differ passes `names`.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_attn.weights.layouts import Layout, layout_of

Names = Sequence[tuple[str, str]]
"""Pairs (pattern, replacement) for `re.sub`, applied in turn to the generic torch key of every variable.

A key that they end in `.T` means a tensor that torch keeps transposed, as transformers' `Conv1D` does; one that
they end in `[0]`, `[1]`, ... means the first, second, ... part of a tensor that torch keeps fused; `[0].T` says
both. For `nnx.MultiHeadAttention`, whose projections torch fuses, a pattern that matches the key of a projection by
itself (`query.weight`) and not the fused one (`in_proj_weight`) says that torch keeps it by itself.
"""

LEAF_NAMES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}

# Attributes that torch calls otherwise. An empty name drops out of the key.
ATTRIBUTE_NAMES: dict[type, dict[str, str]] = {
    nnx.Sequential: {"layers": ""},
    nnx.BatchNorm: {"mean": "running_mean", "var": "running_var"},
    nnx.MultiHeadAttention: {"out": "out_proj"},
}

# The projections that `torch.nn.MultiheadAttention` keeps in one tensor, in its order, and what it calls each
# weight where keys and values are of another width than queries.
PROJECTIONS = {"query": "q_proj_weight", "key": "k_proj_weight", "value": "v_proj_weight"}

# State that is neither weight nor buffer.
PASSED_OVER = (nnx.RngState, nnx.Intermediate, nnx.Cache)


@dataclass(frozen=True)
class TorchLayout:
    """How torch lays out a module's weights, where the generic rule does not tell.

    `load_state_dict` notes it on the module as `torch_layout`, so that `state_dict` gives back what was loaded;
    a class may declare it likewise.

    Attributes:
        names: what is applied to the module's generic keys, before any `names` that are passed.
        tied: pairs (torch key, path in flax): further keys of torch for a weight that flax has under that path.
    """

    names: tuple[tuple[str, str], ...] = ()
    tied: "tuple[tuple[str | Place, str], ...]" = ()


@dataclass(frozen=True)
class Place:
    """One key of a `state_dict`, or some rows of its tensor.

    Attributes:
        key: the key.
        part: which of the parts that torch fuses in one tensor.
        parts: how many there are.
        start: the first row of a part.
        stop: the row after its last.
        rows: the number of rows of all parts.
        transposed: whether torch keeps the whole tensor transposed.
        alone: the key of a fused part where torch keeps it by itself.
        literal: whether the key is torch's own, which `names` does not apply to.
    """

    key: str
    part: int = 0
    parts: int = 1
    start: int = 0
    stop: int = 0
    rows: int = 0
    transposed: bool = False
    alone: str = ""
    literal: bool = False

    def below(self, name: str) -> "Place":
        """The place, seen from the owner of the attribute `name`."""
        return replace(self, key=_join(name, self.key), alone=self.alone and _join(name, self.alone))

    def renamed(self, names: Names) -> "Place":
        """The place, once each pair of `names` has been applied."""
        if self.literal:
            return self
        if self.alone:
            if _chosen(self.alone, self.key, names):
                return Place(self.alone).renamed(names)
            return replace(self._named(names), alone=rename(self.alone, names))
        return self._named(names)

    def _named(self, names: Names) -> "Place":
        match = re.fullmatch(r"(.+?)(\.T)?(?:\[(\d+)\])?(\.T)?", rename(self.key, names))
        if match is None or self.key.endswith(".T"):
            return replace(self, key=rename(self.key, names))
        key, before, part, after = match.groups()
        place = replace(self, key=key, transposed=self.transposed != bool(before or after))
        return place if part is None else replace(place, part=int(part), parts=2)


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

    def whole_shape(self, place: Place) -> tuple[int, ...]:
        """Shape of the tensor at `place`, with all parts that torch fuses in it, as it lies in torch."""
        shape = self.torch_shape
        if place.parts > 1:
            shape = (place.rows, *shape[1:])
        return (*shape[:-2], shape[-1], shape[-2]) if place.transposed else shape

    def to_torch(self, array: np.ndarray) -> list[np.ndarray]:
        """The flax array (or its gradient) as torch computes with it, one array for each place."""
        layers = list(array) if self.stacked else [array]
        return [self.layout.to_torch(layer) for layer in layers]

    def to_flax(self, tensors: Sequence[np.ndarray]) -> np.ndarray:
        """The inverse of `to_torch`."""
        layers = [self.layout.to_flax(tensor, self.layer_shape) for tensor in tensors]
        return np.stack(layers) if self.stacked else layers[0]


def piece_at(place: Place, tensor: np.ndarray) -> np.ndarray:
    """What `place` is of the tensor of its key: one of those that `Slot.to_flax` takes."""
    if place.transposed:
        tensor = tensor.swapaxes(-1, -2)
    return tensor[place.start : place.stop] if place.parts > 1 else tensor


def joined(pieces: Iterable[tuple[Place, np.ndarray]]) -> dict[str, np.ndarray]:
    """The tensors that the pieces make up, by key; those that lack a part are left out."""
    by_key: dict[str, dict[Place, np.ndarray]] = defaultdict(dict)
    for place, array in pieces:
        by_key[place.key][place] = array
    whole = {}
    for key, found in by_key.items():
        first, *_ = places = sorted(found, key=lambda place: place.part)
        if len(places) == first.parts:
            tensor = found[first] if first.parts == 1 else np.concatenate([found[place] for place in places])
            whole[key] = tensor.swapaxes(-1, -2) if first.transposed else tensor
    return whole


def slots(module: nnx.Module, names: Names = (), layout: TorchLayout | None = None) -> list[Slot]:
    """Every weight and buffer of `module` with its place in a torch `state_dict`, in order of definition.

    A submodule whose leaves carry a leading layer axis (a scanned stack) is declared by its owner with
    `stacked = ("layers",)`: its leaves live at `layers.0`, `layers.1`, and so on. Where it has a `period`, it is
    one stack of as many layers, and they are counted through.

    Args:
        module: an NNX module.
        names: pairs (pattern, replacement) that turn our keys into those of torch.
        layout: what stands in for the `torch_layout` of the module itself.

    Raises:
        ValueError: `names` gives two variables the same key or is no list of pairs, or there is a stack
            within a stack.
    """
    require_names(names)
    return _measured(_renamed(walk(module, layout), names))


def walk(node: Any, layout: TorchLayout | None = None) -> list[Slot]:
    """The slots below `node`, with paths and generic keys as seen from it."""
    table = list(_walk(node))
    layout = layout or layout_noted(node)
    table = _renamed(table, layout.names)
    by_path = {slot.path: slot for slot in table}
    ties = [
        replace(by_path[path], places=(place if isinstance(place, Place) else Place(place),))
        for place, path in layout.tied
        if path in by_path
    ]
    return [*table, *ties]


def layout_noted(node: Any) -> TorchLayout:
    """The `torch_layout` of a module; an empty one where it has none."""
    layout = getattr(node, "torch_layout", None)
    return layout if isinstance(layout, TorchLayout) else TorchLayout()


def _renamed(table: Iterable[Slot], names: Names) -> list[Slot]:
    return [replace(slot, places=tuple(place.renamed(names) for place in slot.places)) for slot in table]


def _measured(table: list[Slot]) -> list[Slot]:
    """The table, once it is known which rows each part of a fused tensor has."""
    sharing: dict[str, list[tuple[Slot, Place]]] = defaultdict(list)
    for slot in table:
        for place in slot.places:
            sharing[place.key].append((slot, place))
    measured: dict[int, Place] = {}
    for key, group in sharing.items():
        group.sort(key=lambda each: each[1].part)
        for (slot, place), (other, following) in pairwise(group):
            if place.part == following.part or 1 in (place.parts, following.parts):
                raise ValueError(f"{slot.path} and {other.path} have the same torch key, {key}")
        sizes = [slot.torch_shape[0] if slot.torch_shape else 1 for slot, _ in group]
        stops = list(accumulate(sizes))
        for (slot, place), size, stop in zip(group, sizes, stops, strict=True):
            fused = {"parts": len(group), "start": stop - size, "stop": stop, "rows": stops[-1]}
            turned = place.transposed and len(slot.torch_shape) > 1  # a bias has no other way to lie
            rest = fused if len(group) > 1 else {"part": 0, "parts": 1}
            measured[id(place)] = replace(place, transposed=turned, **rest)
    return [replace(slot, places=tuple(measured[id(place)] for place in slot.places)) for slot in table]


def require_names(names: Any) -> None:
    """Raise ValueError unless `names` is a list of pairs (pattern, replacement) that can be applied."""
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
    renamed = _row(ATTRIBUTE_NAMES, node)
    stacked = getattr(node, "stacked", ())
    for name, child in _children(node):
        own = renamed.get(name, name)
        if isinstance(child, nnx.Variable):
            key = renamed.get(name, LEAF_NAMES.get(name, name))
            yield Slot(name, child, (Place(key),), layout_of(node, name))
            continue
        projection = isinstance(node, nnx.MultiHeadAttention) and name in PROJECTIONS
        for slot in walk(child):
            path = f"{name}.{slot.path}"
            if name in stacked:
                if slot.stacked:
                    raise ValueError(f"{type(node).__name__}.{path} is stacked twice, which is not supported")
                layers = range(jnp.shape(slot.variable.get_value())[0])
                period = getattr(node, "period", 1)
                places = tuple(_in_layer(slot.places[0], layer, period).below(own) for layer in layers)
                yield replace(slot, path=path, places=places, stacked=True)
            elif projection:
                yield replace(slot, path=path, places=(_projection(node, name, slot.places[0].key),))
            else:
                yield replace(slot, path=path, places=tuple(place.below(own) for place in slot.places))


def _in_layer(place: Place, step: int, period: int) -> Place:
    """The place of one step of a stack: a layer, or one of the `layers.{i}` that it runs, which are counted on."""
    if period == 1:
        return place.below(str(step))

    def counted(key: str) -> str:
        return re.sub(r"^layers\.(\d+)", lambda match: str(step * period + int(match[1])), key)

    return replace(place, key=counted(place.key), alone=counted(place.alone))


def _projection(owner: nnx.MultiHeadAttention, name: str, leaf: str) -> Place:
    """Where `torch.nn.MultiheadAttention` keeps the weight or the bias of a projection."""
    alone = f"{name}.{leaf}"
    if leaf == "weight" and owner.in_features != owner.in_kv_features:
        return Place(PROJECTIONS[name], alone=alone)
    return Place(f"in_proj_{leaf}", list(PROJECTIONS).index(name), len(PROJECTIONS), alone=alone)


def _chosen(alone: str, fused: str, names: Names) -> bool:
    """Whether a pair matches the key of a projection by itself, and not where torch fuses it."""
    for pattern, replacement in names:
        if re.search(pattern, alone) and not re.search(pattern, fused):
            return True
        alone, fused = (rename(key, [(pattern, replacement)]) for key in (alone, fused))
    return False


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
