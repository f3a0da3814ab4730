"""Checks of arguments, shared by every module: one clear `ValueError` before any computing."""

import math
import operator
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial, wraps
from inspect import Parameter, signature
from numbers import Real
from types import NoneType, UnionType
from typing import Any, ParamSpec, Union, get_args, get_origin

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.export import is_symbolic_dim

P = ParamSpec("P")


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


def require_positive(name: str, value: Any) -> None:
    """A ValueError unless `value`, a number of things, is at least 1."""
    require_count(name, value, least=1)


def require_count(name: str, value: Any, least: int = 0) -> None:
    """Raise ValueError unless `value`, a number of things, is at least `least`."""
    if not (_is_integer(value) or is_symbolic_dim(value)):
        raise ValueError(f"{name} must be an integer, got {name}={_shown(value)}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {name}={value}")


def _is_integer(value: Any) -> bool:
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)


def require_callable(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a function, or None."""
    if value is not None and not callable(value):
        raise ValueError(f"{name} must be a function, or None, got {_shown(value)}")


def _shown(value: Any) -> str:
    """What was given, in one short line: the name of its class where it is a module or an array."""
    if isinstance(value, type):
        return value.__name__
    text = repr(value)
    return text if "\n" not in text and len(text) <= 80 else type(value).__name__


def require_floating(name: str, value: Any) -> None:
    """Raise ValueError unless one can compute in this dtype."""
    try:
        known = jnp.issubdtype(jnp.dtype(value), jnp.floating)
    except TypeError:
        known = False
    if value is None or not known:
        raise ValueError(f"{name} must be a floating dtype, such as jnp.bfloat16, got {_shown(value)}")


def require_part(name: str, value: Any) -> None:
    """Raise ValueError unless `value` can be a part of a module: one that is built, or a function."""
    if not callable(value) or isinstance(value, type):
        raise ValueError(f"{name} must be a module, built, got {_shown(value)}")


def require_parts(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a sequence, which the parts of a module can stand in."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError(f"{name} must be a sequence of modules, built, got {_shown(value)}")


def require_integer(name: str, value: Any) -> int:
    """Return `value`; raise ValueError unless it is an integer."""
    if not _is_integer(value):
        raise ValueError(f"{name} must be an integer, got {_shown(value)}")
    return operator.index(value)


def require_flag(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is True or False: a word such as "false" would be taken for True."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} must be True or False, got {_shown(value)}")


def require_number(name: str, value: Any) -> None:
    """Raise ValueError unless `value`, where it is known, is a number, neither infinite nor NaN."""
    if not _is_number(value):
        raise ValueError(f"{name} must be a finite number, got {name}={_shown(value)}")


def _is_number(value: Any) -> bool:
    if isinstance(value, Tracer):
        return True
    known = value.item() if isinstance(value, jax.Array | np.ndarray) and value.ndim == 0 else value
    return isinstance(known, Real) and not isinstance(known, bool) and math.isfinite(known)


def require_least(name: str, value: Any, least: float = 0) -> None:
    """Raise ValueError unless `value`, where it is known, is a number from `least` on."""
    require_number(name, value)
    if not isinstance(value, Tracer) and value < least:
        raise ValueError(f"{name} must be at least {least}, got {name}={value}")


def require_pair(name: str, value: Any) -> tuple[int, int]:
    """Return one size for each of two axes; raise ValueError unless it is an integer from 1 on, or two of them."""
    sizes = value if isinstance(value, tuple | list) else (value, value)
    if len(sizes) != 2 or not all(map(_is_integer, sizes)):
        raise ValueError(f"{name} must be an integer or a pair of integers, got {_shown(value)}")
    require_positive(name, min(sizes))
    return int(sizes[0]), int(sizes[1])


def require_cap(name: str, value: Any) -> None:
    """A ValueError unless `value`, where it is known, is a number above 0."""
    if not _is_number(value) or not (isinstance(value, Tracer) or value > 0):
        raise ValueError(f"{name} must be above 0, got {name}={_shown(value)}")


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


def require_probability(name: str, value: Any) -> None:
    """A ValueError unless `0 <= value <= 1`."""
    if isinstance(value, bool) or not isinstance(value, Real) or not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must be a probability between 0 and 1, got {name}={_shown(value)}")


def require_known(name: str, value: Any, known: Collection[Any]) -> None:
    """Raise ValueError unless `value` is one of `known`."""
    if not any(value is each or value == each for each in known):  # a list has no hash, to be looked up by
        raise ValueError(f"{name} must be one of {', '.join(map(str, known))}, got {_shown(value)}")


def require_some(name: str, value: Any, known: Collection[str]) -> tuple[str, ...]:
    """Return the names in `value`; raise ValueError unless it is a sequence of some of `known`."""
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ValueError(f"{name} must be some of {', '.join(known)}, in a tuple, got {_shown(value)}")
    for each in value:
        require_known(name, each, known)
    return tuple(value)


def checked(init: Callable[P, None]) -> Callable[P, None]:
    """Check what a constructor is given that says by annotation and name what it is: numbers, flags, parts, dtypes.

    An `int` counts something, so it is whole and not negative, but for a row (`padding_idx`, `pad_token_id`); a
    width (`embed_dim`) is at least 1. A `float` is finite, an epsilon (`eps`, `norm_eps`) not negative either, a
    `scale` (`residual_scale`) above 0, and `dropout` and `drop_path` are probabilities. A `bool` is True or False,
    and no number. `Any` is a module that is given built, or None where that is the default, and `Sequence[Any]`
    several of them. What else has to hold is for the class to say.

    >>> MultiHeadAttention(64, 8, dropout="0.1", rngs=rngs)
    ValueError: dropout must be a probability between 0 and 1, got dropout='0.1'
    """
    order = signature(init).parameters
    checks = {name: _check_of(parameter) for name, parameter in order.items()}

    @wraps(init)
    def checking(*args: P.args, **kwargs: P.kwargs) -> None:
        for name, value in (*zip(order, args, strict=False), *kwargs.items()):
            check = checks.get(name)
            if check is not None:
                check(name, value)
        init(*args, **kwargs)

    return checking


def _require_rngs(name: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind):
        raise ValueError(f"{name} must be flax's nnx.Rngs, such as nnx.Rngs(0), got {type(value).__name__}")


def _check_of(parameter: Parameter) -> Callable[[str, Any], Any] | None:
    """What to ask of an argument; None where its annotation speaks of something else."""
    name, annotation = parameter.name, parameter.annotation
    kinds = set(get_args(annotation) if get_origin(annotation) in (UnionType, Union) else (annotation,))
    is_optional = NoneType in kinds or parameter.default is None
    kinds -= {NoneType}
    check: Any = None
    if kinds == {int}:
        is_row = name.endswith(("_idx", "_id"))
        check = require_integer if is_row else require_positive if name.endswith("_dim") else require_count
    elif kinds == {float}:
        check = _check_of_number(name)
    elif kinds == {bool}:
        check = require_flag
    elif kinds == {Any}:
        check = require_part
    elif kinds == {Sequence[Any]}:
        check = require_parts
    elif name in ("dtype", "param_dtype"):
        check = require_floating
    elif name == "rngs":
        check = partial(_require_rngs, kind=kinds.pop())
    if check is None or not is_optional:
        return check
    return lambda name, value: None if value is None else check(name, value)


def _check_of_number(name: str) -> Callable[[str, Any], None]:
    """What a `float` of this name has to be."""
    if "dropout" in name or name == "drop_path":
        return require_probability
    if name.endswith("eps"):
        return require_least
    return require_cap if name in ("scale", "residual_scale") else require_number
