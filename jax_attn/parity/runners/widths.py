"""Functions that torch's code computes in float32 inside a lane of 16 bits, and Flax in 16 bits.

A cast to float32 around a norm or a softmax is a part of the model. Where it is missing, the noise ratio seldom
shows it: the roundings are of torch's own size at the end. The dtypes that the functions are given do.
"""

from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr

from jax_attn.parity.runners.torch_functions import intercepting

ALIKE: Mapping[str, str] = {
    "cos": "cos",
    "erf": "erf",
    "exp": "exp",
    "log": "log",
    "rsqrt": "rsqrt",
    "sin": "sin",
    "softmax": "exp",
    "sqrt": "sqrt",
    "tanh": "tanh",
}
"""Functions of torch that are seen with the dtype they compute in, with JAX's primitive for each."""

MISSING = (
    "torch computes it in float32 inside, flax in {dtype}: a cast is missing, which the numbers may not show"
)


class Widths:
    """The floating dtypes that each of JAX's primitives was given, or its counterpart in torch."""

    def __init__(self) -> None:
        self.found: dict[str, set[str]] = {}

    def add(self, name: str, dtype: Any) -> None:
        """One use."""
        self.found.setdefault(name, set()).add(str(dtype).removeprefix("torch."))

    def narrower_in(self, flax: "Widths", dtype: str) -> list[str]:
        """What is in float32 wherever torch has it, and in `dtype` wherever Flax has it."""
        return [
            name
            for name, dtypes in self.found.items()
            if dtypes == {"float32"} and flax.found.get(name) == {dtype}
        ]


@contextmanager
def widths_in_torch(widths: Widths) -> Generator[None]:
    """Within it, note what torch's functions are given."""

    def noted(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = getattr(function, "__name__", "").rstrip("_")
        value = function(*args, **kwargs)
        if name in ALIKE and args and getattr(args[0], "is_floating_point", bool)():
            given = value if name == "softmax" else args[0]  # softmax is given a dtype to compute in
            widths.add(ALIKE[name], given.dtype)
        return value

    with intercepting(noted):
        yield


def widths_in_flax(program: Any) -> Widths:
    """What the primitives of a traced program are given."""
    widths = Widths()
    for equation in _equations(program):
        name = equation.primitive.name
        if name in ALIKE.values() and jnp.issubdtype(dtype := equation.invars[0].aval.dtype, jnp.floating):
            widths.add(name, dtype)
    return widths


def _equations(program: Any) -> Iterator[Any]:
    for equation in (program.jaxpr if isinstance(program, ClosedJaxpr) else program).eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if isinstance(inner, ClosedJaxpr | Jaxpr):
                    yield from _equations(inner)
