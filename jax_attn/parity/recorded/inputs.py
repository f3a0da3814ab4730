"""Whether a call is the one that was recorded: torch cannot run on any other where there is no torch."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jax_attn.parity.cases import Case
from jax_attn.weights.tensors import as_numpy


def require_recorded_inputs(given: Case, recorded: Case) -> None:
    """A ValueError where a call was given, and it is another than the recorded one."""
    ours, theirs = _by_name(given), _by_name(recorded)
    if not ours or (ours.keys() == theirs.keys() and all(_equal(ours[name], theirs[name]) for name in ours)):
        return
    if ours.keys() != theirs.keys():
        where = f"{', '.join(ours)} in place of {', '.join(theirs) or 'nothing'}"
    else:
        name = next(name for name in ours if not _equal(ours[name], theirs[name]))
        words = _word(ours[name]), _word(theirs[name])
        rest = " of other values" if words[0] == words[1] else f", recorded {words[1]}"
        where = f"{name} is {words[0]}{rest}"
    raise ValueError(
        f"its inputs are not those that torch ran on when it was recorded: {where}; "
        "return none, and the recorded ones are taken"
    )


def _by_name(case: Case) -> dict[str, Any]:
    return {**{f"input {place}": value for place, value in enumerate(case.args)}, **case.kwargs}


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        return len(a) == len(b) and all(map(_equal, a, b))
    if hasattr(a, "shape") or hasattr(b, "shape"):
        a, b = as_numpy(a), as_numpy(b)
        return a.shape == b.shape and bool(np.all((a == b) | ((a != a) & (b != b))))
    return bool(a == b)


def _word(value: Any) -> str:
    return f"an array {tuple(value.shape)}" if hasattr(value, "shape") else repr(value)[:60]
