"""Weights moved by rounding errors, alike on both sides: for calls on ids, which cannot be moved themselves.

What a weight is multiplied by is drawn by what it holds. So equal weights of torch and Flax stay equal, wherever
they are kept. What one side alone holds is not moved: it would differ more than it does.
"""

import zlib
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from jax_attn.parity.lanes import Lane, is_inexact
from jax_attn.parity.runners.calls import nearby_steps
from jax_attn.parity.runners.flax_runner import FlaxSide, in_torch_layout
from jax_attn.parity.runners.torch_runner import TorchCopy
from jax_attn.weights.rules import piece_at
from jax_attn.weights.tensors import as_numpy, as_torch

Contents = dict[str, tuple[int, np.ndarray]]
"""Weights by key, in torch's layout: a number that stands for what each holds, and the array."""


@contextmanager
def torch_weights_moved(sides: Sequence[TorchCopy], flax: FlaxSide, draw: int) -> Generator[None]:
    """Within it, the first side has its weights moved, and the others have what it has.

    Args:
        sides: copies of one module, the first in the lane's dtype.
        flax: the other side, in the same lane: what it does not hold is not moved.
        draw: the seed of the movement.
    """
    named = [dict(side.module.named_parameters()) for side in sides]
    kept = [(parameter, parameter.data) for each in named for parameter in each.values()]
    steps = _steps(_of_torch(sides[0]), _numbers(_of_flax(flax)), flax.lane, draw)
    try:
        for name, step in steps.items():
            moved = as_torch(_moved(as_numpy(named[0][name].data), step))
            for each in named:
                each[name].data = moved.to(each[name])
        yield
    finally:
        for parameter, data in kept:
            parameter.data = data


@contextmanager
def flax_weights_moved(side: FlaxSide, torch: TorchCopy, draw: int) -> Generator[None]:
    """Within it, the side has its weights moved as those of `torch` are, which has its own as they were."""
    kept = list(side.leaves)
    steps = _steps(_of_flax(side), _numbers(_of_torch(torch)), side.lane, draw)
    try:
        with jax.enable_x64(side.lane.exact):
            for slot, position in side.weights:
                if any(place.key in steps for place in slot.places):
                    still = np.ones(slot.torch_shape)  # a layer that torch does not hold
                    pieces = [
                        piece_at(place, steps[place.key]) if place.key in steps else still
                        for place in slot.places
                    ]
                    step = slot.to_flax(pieces)
                    side.leaves[position] = jax.device_put(_moved(np.asarray(kept[position]), step))
        yield
    finally:
        side.leaves[:] = kept


def _of_torch(side: TorchCopy) -> Contents:
    return _contents({name: as_numpy(p.data) for name, p in side.module.named_parameters()})


def _of_flax(side: FlaxSide) -> Contents:
    return _contents(in_torch_layout((slot, side.leaves[position]) for slot, position in side.weights))


def _contents(arrays: dict[str, np.ndarray]) -> Contents:
    return {
        key: (zlib.crc32(np.ascontiguousarray(array).tobytes()), array)
        for key, array in arrays.items()
        if is_inexact(array)
    }


def _numbers(contents: Contents) -> set[int]:
    return {number for number, _ in contents.values()}


def _steps(contents: Contents, shared: Collection[int], lane: Lane, draw: int) -> dict[str, np.ndarray]:
    """What each weight that both sides hold is multiplied by."""
    return {
        key: nearby_steps(array.shape, lane, np.random.default_rng([draw, 4, number]))
        for key, (number, array) in contents.items()
        if number in shared
    }


def _moved(array: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The weight, each number multiplied by its step, in the weight's own dtype."""
    wide: Any = array if array.dtype.kind == "c" else array.astype(np.float64)
    return (wide * steps).astype(array.dtype)
