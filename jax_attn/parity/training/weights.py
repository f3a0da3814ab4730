"""The weights that Flax trains: as optax has them, and by torch key in torch's layout."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_attn.parity.lanes import is_floating
from jax_attn.parity.runners.flax_runner import dotted, in_torch_layout
from jax_attn.weights.rules import Names, Slot, piece_at, slots

Arrays = Sequence[Any]


class TrainedWeights:
    """A module, split into what `wrt` selects and the rest.

        module ── nnx.split ──> graphdef
                                what wrt selects ──> leaves, in the order of optax's trees
                                rest ──────────────> leaves of its own

    A leaf is known by its position: `positions` has it by optax path; `_slots` (in `leaves`) and
    `beside` (in `rest`) for a slot, and so for torch's keys. `_whole` and `_pure` are the two ways to make a
    tree of `leaves` again: the one that `nnx.merge` takes, and the one that optax is given.

    Args:
        module: an NNX module.
        wrt: the filter that `nnx.Optimizer` and `nnx.grad` are given.
        names: the renaming rules of `load_state_dict`.

    Attributes:
        graphdef: the module without its state.
        leaves: the arrays that are trained, in the order of optax's trees.
        rest: the state that is not.
        beside: the slots of what is not, each with its position in `rest`.

    Raises:
        ValueError: nothing is selected, or something that has no place in a `state_dict`.
    """

    def __init__(self, module: nnx.Module, wrt: Any, names: Names):
        self.wrt = wrt
        self.graphdef, state, self.rest = nnx.split(module, wrt, ..., graph=True)
        self._whole = jax.tree.structure(state)
        paths, self._pure = jax.tree_util.tree_flatten_with_path(nnx.as_pure(state))
        self.leaves = [leaf for _, leaf in paths]
        self.positions = {dotted(path): position for position, (path, _) in enumerate(paths)}
        table = slots(module, names)
        of_variable = {
            id(slot.variable): self.positions[slot.path] for slot in table if slot.path in self.positions
        }
        # A shared variable has several slots, and torch the same tensor at each of their keys.
        self._slots = [
            (slot, of_variable[id(slot.variable)]) for slot in table if id(slot.variable) in of_variable
        ]
        if not self.leaves:
            raise ValueError(f"wrt must select something to train, got wrt={wrt} and no such variable")
        rest = {dotted(path): place for place, (path, _) in enumerate(_flattened(self.rest))}
        self.beside = [(slot, rest[slot.path]) for slot in table if slot.path in rest]
        unknown = set(self.positions.values()) - set(of_variable.values())
        if unknown:
            lost = [path for path, position in self.positions.items() if position in unknown]
            raise ValueError(f"wrt selects what has no place in a state_dict: {', '.join(lost)}")

    def state(self, leaves: Arrays) -> Any:
        """The leaves as `nnx.merge` takes them."""
        return jax.tree.unflatten(self._whole, leaves)

    def tree(self, leaves: Arrays) -> Any:
        """The leaves as optax takes them, and as `nnx.Optimizer` gives them to it."""
        return jax.tree.unflatten(self._pure, leaves)

    def rest_at(self, rest: Any, by_key: Mapping[str, np.ndarray]) -> Any:
        """`rest` with what torch has values for: frozen weights, running statistics."""
        leaves, treedef = jax.tree.flatten(rest)
        for position, value in _from_torch(self.beside, by_key):
            leaves[position] = jnp.array(value, leaves[position].dtype, copy=True)
        return jax.tree.unflatten(treedef, leaves)

    def to_torch(self, leaves: Arrays | Mapping[int, Any]) -> dict[str, np.ndarray]:
        """By torch key; of some leaves (by position), the keys that they make up."""
        known = leaves if isinstance(leaves, Mapping) else dict(enumerate(leaves))
        return in_torch_layout((slot, known[position]) for slot, position in self._slots if position in known)

    def rest_to_torch(self, rest: Any) -> dict[str, np.ndarray]:
        """By torch key, what of `rest` has one and is floating: running statistics, frozen weights."""
        leaves = jax.tree.leaves(rest)
        known = [(slot, leaves[position]) for slot, position in self.beside]
        return in_torch_layout((slot, leaf) for slot, leaf in known if is_floating(leaf))

    def to_flax(self, by_key: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The inverse of `to_torch`, of every leaf. Of a shared one, torch may know some of the names."""
        leaves = list(self.leaves)
        for position, value in _from_torch(self._slots, by_key):
            leaves[position] = value
        return leaves


def _from_torch(
    where: Sequence[tuple[Slot, int]], by_key: Mapping[str, np.ndarray]
) -> Iterator[tuple[int, np.ndarray]]:
    """The position and value of each leaf of which torch has every piece."""
    for slot, position in where:
        if all(place.key in by_key for place in slot.places):
            yield position, slot.to_flax([piece_at(place, by_key[place.key]) for place in slot.places])


def _flattened(state: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(state)[0]
