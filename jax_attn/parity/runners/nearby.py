"""Weights moved by rounding errors, alike on both sides: for calls on ids, which cannot be moved themselves.

What a weight is multiplied by is drawn by what it holds. So equal weights of torch and Flax stay equal, wherever
they are kept, and weights that differ go on to differ.
"""

import zlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import jax
import numpy as np

from jax_attn.parity.lanes import Lane, is_inexact
from jax_attn.parity.runners.calls import nearby_steps
from jax_attn.parity.runners.flax_runner import FlaxSide, in_torch_layout
from jax_attn.parity.runners.torch_runner import TorchCopy
from jax_attn.weights.rules import piece_at
from jax_attn.weights.tensors import as_numpy, as_torch


@contextmanager
def torch_weights_moved(sides: Sequence[TorchCopy], lane: Lane, draw: int) -> Generator[None]:
    """Within it, the first side has its weights moved, and the others have what it has.

    Args:
        sides: copies of one module, the first in the lane's dtype.
        lane: whose rounding errors are meant.
        draw: the seed of the movement.
    """
    named = [dict(side.module.named_parameters()) for side in sides]
    kept = [(parameter, parameter.data) for each in named for parameter in each.values()]
    try:
        for name, parameter in named[0].items():
            if is_inexact(array := as_numpy(parameter.data)):
                moved = as_torch(_moved(array, _steps(array, lane, draw)))
                for each in named:
                    each[name].data = moved.to(each[name])
        yield
    finally:
        for parameter, data in kept:
            parameter.data = data


@contextmanager
def flax_weights_moved(side: FlaxSide, draw: int) -> Generator[None]:
    """Within it, the side has its weights moved as torch's are.

    Args:
        side: in its lane.
        draw: the seed of the movement.
    """
    kept = list(side.leaves)
    weights = [(slot, position) for slot, position in side.weights if is_inexact(kept[position])]
    whole = in_torch_layout((slot, kept[position]) for slot, position in weights)
    steps = {key: _steps(array, side.lane, draw) for key, array in whole.items()}
    try:
        with jax.enable_x64(side.lane.exact):
            for slot, position in weights:
                if all(place.key in steps for place in slot.places):
                    step = slot.to_flax([piece_at(place, steps[place.key]) for place in slot.places])
                    side.leaves[position] = jax.device_put(_moved(np.asarray(kept[position]), step))
        yield
    finally:
        side.leaves[:] = kept


def _steps(array: np.ndarray, lane: Lane, draw: int) -> np.ndarray:
    content = zlib.crc32(np.ascontiguousarray(array).tobytes())
    return nearby_steps(array.shape, lane, np.random.default_rng([draw, 4, content]))


def _moved(array: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """The weight, each number multiplied by its step, in the weight's own dtype."""
    wide = array if array.dtype.kind == "c" else array.astype(np.float64)
    return (wide * steps).astype(array.dtype)
