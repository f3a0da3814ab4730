"""torch `state_dict`s into NNX modules and back, bit for bit."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_attn.nn.primitives import Buffer, LoadedBuffer
from jax_attn.weights.errors import NamesError, StateDictError
from jax_attn.weights.files import is_floating
from jax_attn.weights.fitting import fit, ties
from jax_attn.weights.remedies import remedies, renaming, transposing
from jax_attn.weights.rules import Names, Place, Slot, TorchLayout, joined, layout_noted, piece_at, slots
from jax_attn.weights.tensors import as_numpy, as_torch

ModuleT = TypeVar("ModuleT", bound=nnx.Module)

# torch counts the batches that BatchNorm saw; flax does not.
WITHOUT_COUNTERPART = ("num_batches_tracked",)

CONV1D = "tensors that are the transpose of what is expected, as transformers' Conv1D keeps them"


def load_state_dict(
    module: ModuleT, state_dict: Mapping[str, Any], strict: bool = True, *, names: Names = ()
) -> ModuleT:
    """Load a torch `state_dict` into `module`, in place, and return the module.

    Every error is looked for before the first weight is written: a module that cannot take all of the
    `state_dict` stays as it was. The arrays are copied one at a time, so that nothing refers to the
    `state_dict` afterwards. A variable that lives on several devices keeps its sharding.

    Args:
        module: an NNX module; also an abstract one, as `nnx.eval_shape` gives it. (Its random state stays
            abstract, and a buffer of it takes what the `state_dict` holds, with nothing to compare to.)
        state_dict: torch tensors, on any device and of any layout, or NumPy arrays, by torch key.
        strict: whether a missing key, an unexpected key and a value that is not finite are errors. As in
            torch, a shape or dtype that does not fit is one either way.
        names: pairs (pattern, replacement) that turn our keys into those of `state_dict`.

    Raises:
        StateDictError: a missing or unexpected key, a wrong shape or dtype, a buffer with other values, a
            weight that is not finite, a shared weight that is given two values. All errors are reported at once.
    """
    layout = fit(module, state_dict, names)
    table = slots(module, names, layout)
    errors = find_errors(table, state_dict, strict)
    if errors:
        message = f"the state_dict does not fit {type(module).__name__}"
        raise misfit(message, module, names, state_dict, errors)
    assign(table, state_dict)
    remember(module, layout)
    return module


def state_dict(
    module: nnx.Module, *, names: Names = (), like: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The weights and buffers of `module` as `torch.nn.Module.load_state_dict` takes them.

    Args:
        module: an NNX module.
        names: pairs (pattern, replacement) that turn our keys into those wanted.
        like: the `state_dict` of the torch module that is to take them: a tensor that goes by several names there
            gets all of them, and projections that it keeps apart are. A module that was loaded remembers that.

    Returns:
        torch tensors, each with memory of its own, by torch key in order of definition.
    """
    tensors = numpy_state_dict(module, names=names, like=like)
    return {key: as_torch(array) for key, array in tensors.items()}


def numpy_state_dict(
    module: nnx.Module, *, names: Names = (), like: Mapping[str, Any] | None = None
) -> dict[str, np.ndarray]:
    """`state_dict` with NumPy arrays for its values, which may be views of the weights. Needs no torch."""
    table = slots(module, names, None if like is None else fit(module, like, names))
    return joined(pair for slot in table for pair in zip(slot.places, _current(slot), strict=True))


def find_errors(
    table: Sequence[Slot],
    state_dict: Mapping[str, Any],
    strict: bool = True,
    by_value: bool = True,
    values: bool = True,
) -> list[str]:
    """Everything that keeps `state_dict` from being loaded into the variables of `table`, one line each.

    Args:
        table: the slots.
        state_dict: the tensors by torch key.
        strict: as in `load_state_dict`.
        by_value: as in `ties`.
        values: whether values are looked at, and whether floats must have the variable's dtype; else that is for
            whoever reads and casts them.
    """
    # A fused tensor reports its errors once.
    return list(dict.fromkeys(_errors(table, state_dict, strict, by_value, values)))


def errors_of(module: nnx.Module, state_dict: Mapping[str, Any], names: Names) -> list[str]:
    """`find_errors` of a strict load."""
    return find_errors(slots(module, names, fit(module, state_dict, names)), state_dict)


def misfit(
    message: str,
    module: nnx.Module,
    names: Names,
    state_dict: Mapping[str, Any],
    errors: Sequence[str],
    errors_with: Callable[[Names], Sequence[str]] | None = None,
) -> StateDictError:
    """The error to raise: one line with the remedy where other names are all that it takes."""
    table = slots(module, names, fit(module, state_dict, names))
    rules, _, _ = renaming(table, state_dict)
    turned = transposing(table, state_dict)
    check = errors_with or partial(errors_of, module, state_dict)

    def fits(further: Names) -> bool:
        try:
            return not check([*names, *further])
        except ValueError:  # they give two tensors one key: no remedy
            return False

    if rules and fits(rules):
        return NamesError(message, errors, [*names, *rules])
    if turned and fits([*rules, *turned]):
        return NamesError(message, errors, [*names, *rules, *turned], CONV1D)
    return StateDictError(message, errors, remedies(module, table, state_dict))


def remember(module: nnx.Module, layout: TorchLayout) -> None:
    """Note on the module how torch lays it out, where the generic rule does not tell."""
    if layout != layout_noted(module):
        setattr(module, "torch_layout", layout)  # noqa: B010 - no attribute that every module has


def assign(table: Sequence[Slot], state_dict: Mapping[str, Any]) -> None:
    """Copy the tensors into the variables, one variable at a time; what is missing stays as it is."""
    for slot in table:
        given = [place.key in state_dict for place in slot.places]
        if not any(given):
            continue
        kept = [] if all(given) else _current(slot)
        tensors = [
            piece_at(place, as_numpy(state_dict[place.key])) if place.key in state_dict else kept[layer]
            for layer, place in enumerate(slot.places)
        ]
        _set(slot.variable, slot.to_flax(tensors), slot.dtype)


def _set(variable: nnx.Variable, array: np.ndarray, dtype: np.dtype[Any]) -> None:
    # JAX may adopt NumPy's memory on CPU; a copy keeps a later change of the tensor out of the module. It is made,
    # and cast, in NumPy: JAX compiles a program for each shape.
    sharding = getattr(variable.get_value(), "sharding", None)
    on_several = sharding is not None and len(sharding.device_set) > 1
    variable.set_value(jax.device_put(np.array(array, dtype), sharding if on_several else None))


def _current(slot: Slot) -> list[np.ndarray]:
    return slot.to_torch(np.asarray(slot.variable.get_value()))


def _is_computed(variable: nnx.Variable) -> bool:
    """Whether it is a constant that the module computes, and a checkpoint can but confirm."""
    return isinstance(variable, Buffer) and not isinstance(variable, LoadedBuffer)


def _is_abstract(variable: nnx.Variable) -> bool:
    return isinstance(variable.get_value(), jax.ShapeDtypeStruct)


def _errors(
    table: Sequence[Slot], state_dict: Mapping[str, Any], strict: bool, by_value: bool, values: bool
) -> Iterator[str]:
    first: dict[int, Slot] = {}
    given = {id(slot.variable) for slot in table if all(place.key in state_dict for place in slot.places)}
    for slot in table:
        fits = True
        for layer, place in enumerate(slot.places):
            if place.key not in state_dict and id(slot.variable) in given:
                fits = False  # one weight of two names, given by the other
                continue
            errors = list(_place_errors(slot, layer, place, state_dict, strict, values))
            fits = fits and not errors and place.key in state_dict
            yield from errors
        twin = first.setdefault(id(slot.variable), slot) if fits else slot
        if twin is not slot and _in_flax(twin, state_dict).tobytes() != _in_flax(slot, state_dict).tobytes():
            keys = " and ".join(each.places[0].key for each in (twin, slot))
            yield f"shared: {keys} are one weight here, and two that differ there"
    if strict:
        expected = {place.key for slot in table for place in slot.places}
        extra = [key for key in state_dict if key not in expected]
        extra = [key for key in extra if key.rpartition(".")[2] not in WITHOUT_COUNTERPART]
        same = ties(table, state_dict, by_value) if extra else {}
        for key in extra:
            if key not in same:
                yield f"unexpected: {key} {_shape(np.shape(state_dict[key]))}"


def _place_errors(
    slot: Slot, layer: int, place: Place, state_dict: Mapping[str, Any], strict: bool, values: bool
) -> Iterator[str]:
    key, shape = place.key, slot.whole_shape(place)
    if key not in state_dict:
        if strict or _is_abstract(slot.variable):  # which has no value to keep
            yield f"missing: {key} {_shape(shape)}"
        return
    try:
        tensor = state_dict[key]
        given = np.shape(tensor)
        if not values and not _is_computed(slot.variable):  # of which only the dtype is asked for
            tensor = np.broadcast_to(np.zeros((), tensor.dtype), given)
        array = piece_at(place, as_numpy(tensor)) if given == shape else None
    except Exception as error:  # a tensor without data, a file that ends early
        yield f"unreadable: {key}: {str(error).splitlines()[0]}"
        return
    if array is None:
        yield f"shape: {key} is {_shape(given)}, expected {_shape(shape)}"
    elif not _holds(slot.dtype, array) and (
        values or not (is_floating(slot.dtype) and is_floating(array.dtype))
    ):
        yield f"dtype: {key} is {array.dtype}, expected {slot.dtype}"
    elif _is_computed(slot.variable) and not _is_abstract(slot.variable):
        if not _same(array.astype(slot.dtype), _current(slot)[layer]):
            yield f"buffer: {key} differs from the constant that the module computes"
    elif strict and values and jnp.issubdtype(array.dtype, jnp.inexact):
        bad = array.size - np.count_nonzero(np.isfinite(array))
        if bad:
            yield f"value: {key} holds {bad} of {array.size} {array.dtype} values that are NaN or infinite"


def _holds(dtype: np.dtype[Any], array: np.ndarray) -> bool:
    """Whether the array has that dtype, or is of integers that fit it: torch counts in 64 bits, JAX in 32."""
    if array.dtype.kind in "iu" and dtype.kind in "iu":
        return np.array_equal(array.astype(dtype), array)
    return array.dtype == dtype


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether the values are equal, NaN included; a float may differ in its last bits.

    Tables of sines or powers do, since each library rounds its own way, and a frequency that is rounded otherwise
    counts at every position, the last axis but one; the `state_dict`'s are then taken.
    """
    if a.shape != b.shape:
        return False
    equal = (a == b) | ((a != a) & (b != b))
    if jnp.issubdtype(a.dtype, jnp.inexact) and not equal.all():
        scale = np.max(np.abs(b), initial=0, where=np.isfinite(b))
        if a.ndim > 1:
            scale = scale * np.arange(1, a.shape[-2] + 1)[:, None]
        with np.errstate(invalid="ignore"):
            equal |= np.abs(a - b) <= 4 * jnp.finfo(a.dtype).eps * scale
    return bool(equal.all())


def _in_flax(slot: Slot, state_dict: Mapping[str, Any]) -> np.ndarray:
    return slot.to_flax([piece_at(place, as_numpy(state_dict[place.key])) for place in slot.places])


def _shape(shape: Sequence[int]) -> str:
    return "(" + ", ".join(map(str, shape)) + ")"
