"""The arguments of a call, taken apart into arrays and the rest, so that each side gets them its own way."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from jax_attn.parity.cases import Case
from jax_attn.parity.lanes import Lane, is_inexact
from jax_attn.parity.runners.trees import keys_of
from jax_attn.weights.tensors import as_numpy, is_torch_tensor


@dataclass(frozen=True)
class Form:
    """Everything about a call but the values of its arrays: two calls of one form share a compilation.

    Attributes:
        treedef: how `(args, kwargs)` is nested.
        rest: the leaves in order, None where an array stands.
        names: what each leaf is called in a report.
        floating: which leaves are floating or complex arrays, those that have a gradient.
    """

    treedef: Any
    rest: tuple[Any, ...]
    names: tuple[str, ...]
    floating: tuple[bool, ...]

    def build(self, arrays: list[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """`(args, kwargs)` with these arrays in their places."""
        waiting = iter(arrays)
        leaves = [next(waiting) if leaf is None else leaf for leaf in self.rest]
        return jax.tree.unflatten(self.treedef, leaves)


@dataclass(frozen=True)
class Call:
    """One call: its form, and its arrays."""

    form: Form
    arrays: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, case: Case) -> "Call":
        """The call of a case."""
        paths, treedef = jax.tree_util.tree_flatten_with_path((tuple(case.args), dict(case.kwargs)))
        arrays = tuple(as_numpy(leaf) for _, leaf in paths if _is_array(leaf))
        rest = tuple(None if _is_array(leaf) else leaf for _, leaf in paths)
        names = tuple(_name(path) for path, leaf in paths if _is_array(leaf))
        return cls(Form(treedef, rest, names, tuple(map(is_inexact, arrays))), arrays)

    def cast(self, lane: Lane) -> "Call":
        """The same call with its floating arrays in the lane's dtype."""
        return self.map(lane.cast)

    def map(self, change: Callable[[np.ndarray], np.ndarray]) -> "Call":
        """The same call with every array changed."""
        return Call(self.form, tuple(change(array) for array in self.arrays))

    def nearby(self, lane: Lane, seed: int) -> "Call":
        """The same call with each floating number moved by some of the lane's rounding errors."""
        generator = np.random.default_rng([seed, 3])

        def move(array: np.ndarray) -> np.ndarray:
            if not is_inexact(array):
                return array
            step = nearby_steps(array.shape, lane, generator)
            wide = array if array.dtype.kind == "c" else array.astype(np.float64)
            return lane.cast(np.asarray(wide * step))

        return self.map(move)

    @property
    def moves(self) -> bool:
        """Whether `nearby` moves more than masks: ids it cannot move, and what a mask closes stays closed."""
        return any(is_inexact(array) and not _is_mask(array) for array in self.arrays)

    @cached_property
    def floating_names(self) -> list[str]:
        """Names of the arrays that have a gradient."""
        return [name for name, floating in zip(self.form.names, self.form.floating, strict=True) if floating]


def nearby_steps(shape: tuple[int, ...], lane: Lane, generator: np.random.Generator) -> np.ndarray:
    """What numbers are multiplied by to move them by some of the lane's rounding errors."""
    return 1 + 8 * lane.eps * generator.uniform(-1, 1, shape)


def _is_mask(array: np.ndarray) -> bool:
    """Whether an array holds two values at most, in more places than two."""
    if array.size < 3 or array.dtype.kind == "c":
        return False
    return bool(((array == array.min()) | (array == array.max())).all())


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, np.ndarray | jax.Array) or is_torch_tensor(leaf)


def _name(path: tuple[Any, ...]) -> str:
    """`(args, kwargs)[0][1]` is "input 1", `(args, kwargs)[1]["mask"]` is "mask"."""
    kind, *keys = keys_of(path)
    name = ".".join(map(str, keys))
    return f"input {name}" if kind == 0 else name


def cotangents(shapes: list[tuple[int, ...]], lane: Lane, seed: int) -> list[np.ndarray]:
    """What the gradients are taken of: random weights of each floating output, equal on both sides."""
    draw = np.random.default_rng([seed, 1]).standard_normal
    return [lane.cast(np.asarray(draw(shape))) for shape in shapes]
