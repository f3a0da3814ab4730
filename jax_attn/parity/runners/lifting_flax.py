"""float32 inside a Flax module as float64, where the mathematics is compared and not the rounding.

Every primitive of JAX is bound through one method. While lifting, what it is given in float32 is widened, and
a float32 that it is asked for is float64: a cast to float32 does nothing, and what would be made in float32
is made in float64. The program is the module's own, in a wider dtype. 16 bits stay 16 bits.
"""

import threading
from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest import mock

import jax
import numpy as np
from jax.core import ShapedArray, Tracer
from jax.extend.core import ClosedJaxpr, Jaxpr, Primitive

from jax_attn.parity.runners.places import Places

WIDE = {np.dtype("float32"): np.dtype("float64"), np.dtype("complex64"): np.dtype("complex128")}

INSIDE = ("jax.", "jaxlib.", "flax.", "numpy.", "optax.")
"""Code that is not the module's own."""

_bind = Primitive.bind
_active = threading.local()
_one_at_a_time = threading.RLock()  # the patch is the whole process's
_traced_while = jax.make_user_context(False)


@contextmanager
def lifted_flax(places: Places | None, anew: bool = False) -> Generator[None]:
    """Within it, JAX computes in 64 bits what the code asks for in float32; None is: as it is.

    Args:
        places: takes note of where float32 is asked for.
        anew: trace anew what was traced before with other places.
    """
    if places is None:
        yield
        return
    with _one_at_a_time, ExitStack() as around:
        # What was traced while lifting must not be found outside, nor the other way round.
        around.enter_context(_traced_while(places if anew else True))
        around.enter_context(mock.patch.object(Primitive, "bind", _lifted_bind))
        for name, place in (("scan", 1), ("while_loop", 2), ("fori_loop", 3)):
            around.enter_context(mock.patch.object(jax.lax, name, _from_wide(getattr(jax.lax, name), place)))
        before = getattr(_active, "places", None)
        _active.places = places
        try:
            yield
        finally:
            _active.places = before


def widened(value: Any) -> Any:
    """A float32 array in float64, a complex64 one in complex128; anything else as it is.

    A number by itself is meant as it is written: 1e-5, not the nearest float32.
    """
    dtype = WIDE.get(getattr(value, "dtype", None))
    if dtype is None:
        return value
    if not isinstance(value, Tracer) and np.ndim(value) == 0:
        value = np.asarray(value)
        return value.astype(dtype) if dtype.kind == "c" else np.float64(str(value[()]))
    if isinstance(value, np.ndarray):
        return value.astype(dtype)
    weak = bool(getattr(getattr(value, "aval", None), "weak_type", False))
    return _bind(jax.lax.convert_element_type_p, value, new_dtype=dtype, weak_type=weak, sharding=None)


def _lifted_bind(primitive: Any, *args: Any, **params: Any) -> Any:
    places = getattr(_active, "places", None)
    # A program that was traced before has the dtypes that it was traced with.
    if (
        places is None
        or primitive.name == "bitcast_convert_type"
        or any(map(_holds_program, params.values()))
    ):
        return _bind(primitive, *args, **params)
    asked = [name for name, value in params.items() if isinstance(value, np.dtype) and value in WIDE]
    if asked:
        places.add(INSIDE)
    params |= {name: WIDE[params[name]] for name in asked}
    return _bind(primitive, *map(widened, args), **params)


def _holds_program(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return any(map(_holds_program, value))
    return isinstance(value, ClosedJaxpr | Jaxpr | jax.ShapeDtypeStruct | ShapedArray)


def _from_wide(loop: Callable[..., Any], place: int) -> Callable[..., Any]:
    """A loop that starts from 64 bits, which is what its body comes to."""

    @wraps(loop)
    def lifted(*args: Any, **kwargs: Any) -> Any:
        if getattr(_active, "places", None) is not None:
            args = tuple(jax.tree.map(widened, arg) if i == place else arg for i, arg in enumerate(args))
            for name in ("init", "init_val"):
                if name in kwargs:
                    kwargs[name] = jax.tree.map(widened, kwargs[name])
        return loop(*args, **kwargs)

    return lifted
