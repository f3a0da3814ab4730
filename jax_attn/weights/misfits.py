"""Why weights do not fit a model as a whole, in a few words: they are another model's, or of another size."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jax_attn.weights.remedies import renaming
from jax_attn.weights.rules import Slot

Shape = tuple[int, ...]


def as_a_whole(
    table: Sequence[Slot], tensors: Mapping[str, np.ndarray], config: Mapping[str, Any]
) -> str | None:
    """What is wrong where it is one thing, of which there may be an error for each tensor.

    Args:
        table: the slots of the module.
        tensors: those of the file, by key.
        config: the `config.json`, one of whose sizes may be to blame.

    Returns:
        it in one line; None where the errors are of several kinds, or other names would find most of the tensors.
    """
    given = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    expected = {place.key: slot.whole_shape(place) for slot in table for place in slot.places}
    missing = [key for key in expected if key not in given]
    if 2 * len(missing) > len(expected):
        _, found, _ = renaming(table, tensors)
        if 2 * found > len(missing):
            return None
        return _of_another_model(expected, missing, given)
    other = [key for key, shape in expected.items() if key in given and given[key] != shape]
    if missing or len(other) < 2 or given.keys() - expected.keys():
        return None
    key, more = other[0], len(other) - 1
    return (
        f"{_size(expected, other, given, config)}{key} is {_text(given[key])}, expected {_text(expected[key])}, "
        f"and so {'is' if more == 1 else 'are'} {more} more"
    )


def _of_another_model(
    expected: Mapping[str, Shape], missing: Sequence[str], given: Mapping[str, Shape]
) -> str:
    unknown = [key for key in given if key not in expected]
    theirs = f", and has {len(unknown)} that are not, as {unknown[0]}" if unknown else ""
    return (
        f"it holds {len(expected) - len(missing)} of the {len(expected)} tensors that are expected{theirs}; "
        f"{missing[0]} is missing, ..."
    )


def _size(
    expected: Mapping[str, Shape],
    other: Sequence[str],
    given: Mapping[str, Shape],
    config: Mapping[str, Any],
) -> str:
    """The attributes that say what is expected along an axis that differs in each of these tensors."""
    wanted = [
        {size for size, found in zip(expected[key], given[key], strict=False) if size != found}
        for key in other
    ]
    sizes = set.intersection(*wanted)
    names = [f"{name}={value!r}" for name, value in config.items() if type(value) is int and value in sizes]
    return f"{' and '.join(names)}, but " if names else ""


def _text(shape: Shape) -> str:
    return f"({', '.join(map(str, shape))})"
