"""Tensors of a file into the variables of a module, each straight to its devices, slice by slice."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_attn.weights.files import forget_pages
from jax_attn.weights.rules import Slot, piece_at

Placement = jax.sharding.Sharding | Callable[[str, tuple[int, ...]], jax.sharding.Sharding | None] | None
"""Where parameters lie: one sharding for all, or what gives that of each from its path and its shape."""

Index = tuple[slice, ...]

ALIGNMENT = 64  # bytes
BLOCK = 1 << 20  # numbers of a tensor that are copied at a time


def sharding_of(placement: Placement, path: str, shape: tuple[int, ...]) -> jax.sharding.Sharding | None:
    """The sharding of the variable at `path`; None is the default device.

    Raises:
        ValueError: it is none, or does not divide the shape.
    """
    sharding = placement(path, shape) if callable(placement) else placement
    if sharding is None:
        return None
    if not isinstance(sharding, jax.sharding.Sharding):
        raise ValueError(
            f"sharding must be a jax.sharding.Sharding or give one (or None) for each parameter, got {sharding!r}"
        )
    try:
        sharding.shard_shape(shape)
    except Exception as error:
        raise ValueError(f"sharding does not fit {path}: {str(error).splitlines()[0]}") from None
    return sharding


def placed(value: jax.Array, placement: Placement, path: str) -> jax.Array:
    """The value of the variable at `path`, where it belongs."""
    sharding = sharding_of(placement, path, value.shape)
    return value if sharding is None else jax.device_put(value, sharding)


def read_into(
    table: Sequence[Slot], tensors: Mapping[str, np.ndarray], placement: Placement = None
) -> list[str]:
    """Set the variables of `table` to the tensors, which are known to fit; return what is wrong with their values.

    Of each tensor the slices of the devices here are read, cast and handed over, one after another, and of a mapped
    file no more than a block stands beside the weights. (What several devices hold is read once.)
    """
    errors: list[str] = []
    read: set[int] = set()
    for slot in table:
        if id(slot.variable) in read or any(place.key not in tensors for place in slot.places):
            continue
        read.add(id(slot.variable))
        shape = tuple(jnp.shape(slot.variable.get_value()))
        sharding = sharding_of(placement, slot.path, shape)
        slot.variable.set_value(_array(slot, shape, sharding, tensors, errors))
    return list(dict.fromkeys(errors))


def _array(
    slot: Slot,
    shape: tuple[int, ...],
    sharding: jax.sharding.Sharding | None,
    tensors: Mapping[str, np.ndarray],
    errors: list[str],
) -> jax.Array:
    if sharding is None:
        return jax.device_put(_slice(slot, tuple(slice(None) for _ in shape), tensors, errors))
    last: dict[Any, np.ndarray] = {}

    def read(index: Index | None) -> np.ndarray:
        index = index or ()
        at = tuple((part.start, part.stop) for part in index)
        if at not in last:
            last.clear()
            last[at] = _slice(slot, index, tensors, errors)
        return last[at]

    return jax.make_array_from_callback(shape, sharding, read)


def _slice(slot: Slot, index: Index, tensors: Mapping[str, np.ndarray], errors: list[str]) -> np.ndarray:
    """The values at `index` of the variable, in memory of their own."""
    places, inner = (slot.places[index[0]], index[1:]) if slot.stacked else (slot.places[:1], index)
    array = np.empty(())
    for layer, place in enumerate(places):
        tensor = np.asarray(tensors[place.key])  # now it is read
        part = slot.layout.to_flax(piece_at(place, tensor), slot.layer_shape)[inner]
        if not layer:
            array = empty((len(places), *part.shape) if slot.stacked else part.shape, slot.dtype)
        own = array[layer, ...] if slot.stacked else array
        _copy(own, part)
        errors += value_errors(place.key, own)
    return array


def _copy(own: np.ndarray, part: np.ndarray) -> None:
    """Copy `part` to `own` in blocks, in the order of the file, of which no more than a block stays in memory."""
    axis = max(range(part.ndim), key=lambda axis: abs(part.strides[axis]), default=None)
    count = 1 if axis is None else part.shape[axis]
    size = max(1, BLOCK * count // max(1, part.size))
    for start in range(0, count, size):
        block = ... if axis is None else (*(slice(None),) * axis, slice(start, start + size))
        with np.errstate(over="ignore"):  # what overflows becomes infinite, which is refused
            own[block] = part[block]
        forget_pages(part)


def value_errors(key: str, array: np.ndarray | None, dtype: Any = None) -> list[str]:
    """What is wrong with the values of a tensor, if there is one and anything, once it is cast to `dtype`."""
    if array is None:
        return []
    with np.errstate(over="ignore"):
        array = array if dtype is None else np.asarray(array, dtype)
    if all_finite(array):
        return []
    bad = sum(chunk.size - np.count_nonzero(np.isfinite(chunk)) for chunk in _chunks(array))
    return [f"value: {key} holds {bad} of {array.size} {array.dtype} values that are NaN or infinite"]


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Memory so aligned that JAX takes it over on a CPU, in place of copying it once more."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size].view(dtype).reshape(shape)


def all_finite(array: np.ndarray) -> bool:
    """Whether no value is NaN or infinite: then neither is their sum, but for an overflow."""
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        return True
    with np.errstate(all="ignore"):
        total = array.sum(dtype=np.promote_types(array.dtype, np.float32))
        return bool(np.isfinite(total)) or all(np.isfinite(chunk).all() for chunk in _chunks(array))


def _chunks(array: np.ndarray, size: int = 1 << 20) -> Iterator[np.ndarray]:
    flat = array.reshape(-1)
    return (flat[start : start + size] for start in range(0, math.prod(array.shape), size))
