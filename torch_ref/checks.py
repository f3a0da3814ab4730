"""What a twin refuses when it is built, in one line: the checks of `jax_attn.functional.checks`, in short."""

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import wraps
from inspect import Parameter, signature
from math import isfinite
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, ParamSpec, get_args

P = ParamSpec("P")


def checked(**known: Collection[Any]) -> Callable[[Callable[P, None]], Callable[P, None]]:
    """Check what a constructor is given by annotation and name, and by the words that some of it may be.

    An `int` counts something and a width (`embed_dim`) is at least 1, but for a row (`padding_idx`); a `float` is
    finite, an `eps` not negative, a `scale` above 0, a `dropout` a probability; a `bool` is no number; `Any` is a
    module that is built, and `Sequence[Any]` several.

    >>> @checked(gate=(None, "head", "element"))
    ... def __init__(self, embed_dim: int, gate: str | None = None): ...
    """

    def decorate(init: Callable[P, None]) -> Callable[P, None]:
        order = signature(init).parameters

        @wraps(init)
        def checking(*args: P.args, **kwargs: P.kwargs) -> None:
            for name, value in (*zip(order, args, strict=False), *kwargs.items()):
                if name in known:
                    require_known(name, value, known[name])
                elif name in order:
                    _require(name, value, order[name])
            init(*args, **kwargs)

        return checking

    return decorate


def require_known(name: str, value: Any, known: Collection[Any]) -> None:
    """Raise ValueError unless `value` is one of `known`; what is no word is for the class to look at."""
    if (isinstance(value, str) or None in known) and not any(
        value is each or value == each for each in known
    ):
        raise ValueError(f"{name} must be one of {', '.join(map(str, known))}, got {value!r}")


def head_width(embed_dim: int, num_heads: int, head_dim: int | None = None) -> int:
    """`head_dim`, or `embed_dim / num_heads` for None; raise ValueError where that leaves something over."""
    if head_dim is not None:
        return head_dim
    return divided("embed_dim", embed_dim, "num_heads", num_heads)


def divided(name: str, value: int, divisor_name: str, divisor: int) -> int:
    """`value // divisor`; raise ValueError where that leaves something over."""
    if divisor < 1:
        raise ValueError(f"{divisor_name} must be at least 1, got {divisor_name}={divisor}")
    if value % divisor:
        raise ValueError(
            f"{name} must be divisible by {divisor_name}, got {name}={value} and {divisor_name}={divisor}"
        )
    return value // divisor


def _require(name: str, value: Any, parameter: Parameter) -> None:
    """Raise ValueError where an argument is not what its annotation and name say."""
    annotation = parameter.annotation
    kinds = {*get_args(annotation)} if isinstance(annotation, UnionType) else {annotation}
    if value is None and (parameter.default is None or NoneType in kinds):
        return
    kinds -= {NoneType}
    expected = None
    if kinds == {Sequence[Any]}:
        expected = "a sequence of modules, built" if _is_no_sequence(value) else None
    elif kinds == {Any}:
        expected = "a module, built" if isinstance(value, type) or not callable(value) else None
    elif kinds == {bool}:
        expected = None if isinstance(value, bool) else "True or False"
    elif kinds == {int}:
        least = None if name.endswith(("_idx", "_id")) else int(name.endswith("_dim"))
        expected = _unless_counted(value, least)
    elif kinds == {float}:
        expected = _unless_number(name, value)
    if expected is not None:
        raise ValueError(f"{name} must be {expected}, got {name}={value!r}")


def _is_no_sequence(value: Any) -> bool:
    return isinstance(value, str | type) or not isinstance(value, Iterable)


def _unless_counted(value: Any, least: int | None) -> str | None:
    """What an integer of this size should have been, or None where it is one."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        return "an integer"
    return None if least is None or int(value) >= least else f"at least {least}"


def _unless_number(name: str, value: Any) -> str | None:
    """What a number of this name should have been, or None where it is one."""
    is_number = isinstance(value, Real) and not isinstance(value, bool) and isfinite(value)
    number = float(value) if is_number else -1.0
    if "dropout" in name or name == "drop_path":
        return None if 0 <= number <= 1 else "a probability between 0 and 1"
    if name.endswith("eps"):
        return None if number >= 0 else "a finite number, at least 0"
    if name in ("scale", "residual_scale"):
        return None if number > 0 else "above 0"
    return None if is_number else "a finite number"
