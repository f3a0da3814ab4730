"""Checks of arguments, shared by every module: one clear `ValueError` before any computing."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from jax.core import Tracer


def require_divisible(name: str, value: int, divisor_name: str, divisor: int) -> int:
    """`value // divisor`, or a ValueError that names both arguments.

    >>> require_divisible("d_out", 12, "num_heads", 3)
    4
    """
    require_positive(name, value)
    require_positive(divisor_name, divisor)
    if value % divisor:
        raise ValueError(
            f"{name} must be divisible by {divisor_name}, got {name}={value} and {divisor_name}={divisor}"
        )
    return value // divisor


def require_positive(name: str, value: int) -> None:
    """A ValueError unless `value`, a number of things, is at least 1."""
    if isinstance(value, float):
        raise ValueError(f"{name} must be an integer, got {name}={value}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {name}={value}")


def require_callable(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a function, or None."""
    if value is not None and not callable(value):
        raise ValueError(f"{name} must be a function, or None, got {value!r}")


def require_integer(name: str, value: Any) -> int:
    """Return `value`; raise ValueError unless it is an integer."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"{name} must be an integer, got {value!r}")
    return int(value)


def require_pair(name: str, value: Any) -> tuple[int, int]:
    """Return one size for each of two axes; raise ValueError unless it is an integer from 1 on, or two of them."""
    sizes = value if isinstance(value, tuple | list) else (value, value)
    if len(sizes) != 2 or any(isinstance(x, bool) or not isinstance(x, int | np.integer) for x in sizes):
        raise ValueError(f"{name} must be an integer or a pair of integers, got {value!r}")
    require_positive(name, min(sizes))
    return int(sizes[0]), int(sizes[1])


def require_cap(name: str, value: Any) -> None:
    """A ValueError unless `value`, where it is known, is above 0."""
    if not isinstance(value, Tracer) and not value > 0:
        raise ValueError(f"{name} must be above 0, got {name}={value}")


def require_last_dim(
    name: str, shape: Sequence[int], expected: int | None, ndims: Sequence[int] = (2, 3)
) -> None:
    """A ValueError unless an array has one of `ndims` axes, the last `expected` long (None: any length)."""
    if len(shape) not in ndims or expected not in (None, shape[-1]):
        last = "d" if expected is None else expected
        shapes = " or ".join("(" + "".join(f"{axis}, " for axis in "bt"[3 - n :]) + f"{last})" for n in ndims)
        raise ValueError(f"{name} must have shape {shapes}, got {tuple(shape)}")


def require_context(context: Sequence[int], x: Sequence[int], width: int) -> None:
    """A ValueError unless a context's shape is that of `x` but for its length, and `width` wide."""
    require_last_dim("context", context, width, ndims=(len(x),))
    if len(x) == 3 and context[0] != x[0]:
        raise ValueError(f"context must have the batch size of x, {x[0]}, got {context[0]}")


def require_boolean_mask(name: str, mask: Any, shapes: Sequence[tuple[int, ...]]) -> None:
    """A ValueError unless `mask` is a boolean array of one of `shapes`."""
    dtype = getattr(mask, "dtype", type(mask).__name__)
    if dtype != np.bool_:
        raise ValueError(f"{name} must be a boolean array, True = attend, got {dtype}")
    if tuple(mask.shape) not in shapes:
        raise ValueError(f"{name} must have shape {' or '.join(map(str, shapes))}, got {tuple(mask.shape)}")


def require_at_most(name: str, value: int, limit_name: str, limit: int) -> None:
    """A ValueError unless `value <= limit`."""
    if value > limit:
        raise ValueError(f"{name} must be at most {limit_name}={limit}, got {value}")


def require_probability(name: str, value: float) -> None:
    """A ValueError unless `0 <= value <= 1`."""
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must be a probability between 0 and 1, got {name}={value}")


def require_known(name: str, value: Any, known: Collection[Any]) -> None:
    """Raise ValueError unless `value` is one of `known`."""
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(map(str, known))}, got {value!r}")
