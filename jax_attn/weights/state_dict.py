"""torch `state_dict`s into NNX modules and back, bit for bit."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_attn.primitives import Buffer
from jax_attn.weights.rules import Names, Place, Slot, slots
from jax_attn.weights.tensors import as_numpy, as_torch

ModuleT = TypeVar("ModuleT", bound=nnx.Module)

# torch counts the batches that BatchNorm saw; flax does not.
WITHOUT_COUNTERPART = ("num_batches_tracked",)


class StateDictError(ValueError):
    """A `state_dict` that does not fit its module. `faults` holds every fault, one line each."""

    def __init__(self, module: nnx.Module, faults: list[str]):
        self.faults = faults
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        super().__init__(
            f"the state_dict does not fit {type(module).__name__} ({count}):\n  " + "\n  ".join(faults)
        )


def load_state_dict(
    module: ModuleT, state_dict: Mapping[str, Any], strict: bool = True, *, names: Names = ()
) -> ModuleT:
    """Load a torch `state_dict` into `module`, in place, and return the module.

    Every fault is looked for before the first weight is written: a module that cannot take all of the
    `state_dict` stays as it was. The arrays are copied one at a time, so that nothing refers to the
    `state_dict` afterwards. A variable that lives on several devices keeps its sharding.

    Args:
        module: an NNX module; also an abstract one, as `nnx.eval_shape` gives it.
        state_dict: torch tensors or NumPy arrays by torch key.
        strict: whether a missing key, an unexpected key and a value that is not finite are faults.
        names: pairs (pattern, replacement) that turn our keys into those of `state_dict`.

    Raises:
        StateDictError: a missing or unexpected key, a wrong shape or dtype, a buffer with other values, a
            weight that is not finite, a shared weight that is given two values. All faults are told at once.
    """
    table = slots(module, names)
    faults = list(_faults(table, state_dict, strict))
    if faults:
        raise StateDictError(module, faults)
    for slot in table:
        if all(place.key in state_dict for place in slot.places):
            _assign(slot.variable, slot.to_flax([_part(state_dict, place) for place in slot.places]))
    return module


def state_dict(module: nnx.Module, *, names: Names = ()) -> dict[str, Any]:
    """The weights and buffers of `module` as `torch.nn.Module.load_state_dict` takes them.

    Args:
        module: an NNX module.
        names: pairs (pattern, replacement) that turn our keys into those wanted.

    Returns:
        torch tensors, each with memory of its own, by torch key in order of definition.
    """
    return {key: as_torch(array) for key, array in numpy_state_dict(module, names=names).items()}


def numpy_state_dict(module: nnx.Module, *, names: Names = ()) -> dict[str, np.ndarray]:
    """`state_dict` with NumPy arrays for its values. Needs no torch."""
    parts: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
    for slot in slots(module, names):
        arrays = slot.to_torch(np.asarray(slot.variable.get_value()))
        for place, array in zip(slot.places, arrays, strict=True):
            parts[place.key][place.part] = array
    return {
        key: pieces[0] if len(pieces) == 1 else np.concatenate([pieces[part] for part in sorted(pieces)])
        for key, pieces in parts.items()
    }


def _part(state_dict: Mapping[str, Any], place: Place) -> np.ndarray:
    array = as_numpy(state_dict[place.key])
    if place.parts == 1:
        return array
    length = array.shape[0] // place.parts
    return array[place.part * length : (place.part + 1) * length]


def _assign(variable: nnx.Variable, array: np.ndarray) -> None:
    old = variable.get_value()
    # JAX may adopt NumPy's memory on CPU; a copy keeps a later change of the tensor out of the module.
    new = jnp.array(array, copy=True)
    sharding = getattr(old, "sharding", None)
    if isinstance(old, jax.Array) and sharding is not None and len(sharding.device_set) > 1:
        new = jax.device_put(new, sharding)
    variable.set_value(new)


def _faults(table: list[Slot], state_dict: Mapping[str, Any], strict: bool) -> Iterator[str]:
    seen: dict[int, Slot] = {}
    expected = set()
    for slot in table:
        expected.update(place.key for place in slot.places)
        for index, place in enumerate(slot.places):
            if place.key in state_dict:
                yield from _tensor_faults(slot, place, index, state_dict, strict)
            elif strict and place.part == 0:
                yield f"missing: {place.key} {_shape(_whole(slot, place))}"
        twin = seen.setdefault(id(slot.variable), slot)
        if twin is not slot:
            yield from _tie_faults(twin, slot, state_dict)
    if strict:
        for key in state_dict:
            if key not in expected and key.rpartition(".")[2] not in WITHOUT_COUNTERPART:
                yield f"unexpected: {key} {_shape(np.shape(state_dict[key]))}"


def _tensor_faults(
    slot: Slot, place: Place, index: int, state_dict: Mapping[str, Any], strict: bool
) -> Iterator[str]:
    whole = as_numpy(state_dict[place.key])
    if whole.shape != _whole(slot, place):
        if place.part == 0:
            yield f"shape: {place.key} is {_shape(whole.shape)}, expected {_shape(_whole(slot, place))}"
        return
    array = _part(state_dict, place)
    dtype = np.dtype(slot.variable.dtype)
    if array.dtype != dtype:
        yield f"dtype: {place.key} is {array.dtype}, expected {dtype}"
    elif isinstance(slot.variable, Buffer):
        if not np.array_equal(array, _current(slot, index)):
            yield f"buffer: {place.key} differs from the constant that the module computes"
    elif strict and jnp.issubdtype(array.dtype, jnp.inexact) and not np.isfinite(array).all():
        bad = array.size - int(np.isfinite(array).sum())
        yield f"value: {place.key} holds {bad} of {array.size} values that are NaN or infinite"


def _tie_faults(first: Slot, second: Slot, state_dict: Mapping[str, Any]) -> Iterator[str]:
    for one, other in zip(first.places, second.places, strict=True):
        if one.key in state_dict and other.key in state_dict:
            a, b = _part(state_dict, one), _part(state_dict, other)
            if a.shape != b.shape or not np.array_equal(a, b):
                yield f"shared: {one.key} and {other.key} are one weight here, but differ"


def _current(slot: Slot, index: int) -> np.ndarray:
    return slot.to_torch(np.asarray(slot.variable.get_value()))[index]


def _whole(slot: Slot, place: Place) -> tuple[int, ...]:
    rows, *rest = slot.torch_shape or (0,)
    return (rows * place.parts, *rest) if slot.torch_shape else ()


def _shape(shape: tuple[int, ...]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"
