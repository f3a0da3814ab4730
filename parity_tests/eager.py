"""What JAX compiles for an operation by itself, spared: a program for each shape, which the tests run once.

Only numbers that are moved, cast or drawn are concerned, and they are the same to the last bit: what is computed
is JAX's. It reaches into JAX's private parts; where a later JAX has none of that name, the tests merely take
longer.
"""

import itertools
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import jax
import numpy as np

PLAIN = frozenset("biuf")  # kinds of dtypes that NumPy casts as XLA does, but for floats to integers
BLOCK = 1 << 16  # draws of up to so many numbers are cut from one of a power of four
BLOCKS = 1 << 9  # so many of them are kept
USES = 200  # of one MLIR context, which keeps every type and constant that it has seen


def spare_programs() -> None:
    """From now on and in this process."""
    from jax._src import core
    from jax._src.interpreters import mlir
    from jax._src.lax import lax
    from jax._src.random import core as random

    moves = {"stage_p": _staged, "convert_element_type_p": _cast, "broadcast_in_dim_p": _broadcast}
    moves |= {"reshape_p": _reshaped, "squeeze_p": _squeezed}
    for name, move in moves.items():
        with suppress(AttributeError):
            _move_in_numpy(getattr(lax, name), move)
    for name in ("_uniform", "_normal", "_truncated_normal"):
        with suppress(AttributeError):
            setattr(random, name, _cut_from_a_block(getattr(random, name), core.trace_state_clean))
    with suppress(AttributeError):
        mlir.make_ir_context = _shared(mlir.make_ir_context)
    with suppress(AttributeError):
        core.Tracer.sharding = property(_has_no_sharding)


def _move_in_numpy(primitive: Any, move: Callable[..., Any]) -> None:
    compiled = primitive.impl

    def moved(x: Any, *args: Any, **params: Any) -> Any:
        if not args and params.get("sharding") is None and _is_plain(x):
            found = move(x, **params)
            if found is not None:
                return jax.device_put(found)
        return compiled(x, *args, **params)

    primitive.def_impl(moved)


def _is_plain(x: Any) -> bool:
    """Whether it is an array of numbers of JAX's, or of NumPy's, that lies on no chosen device."""
    if not isinstance(x, jax.Array):
        return isinstance(x, np.ndarray) and x.dtype.kind in PLAIN
    return isinstance(x.dtype, np.dtype) and not x.weak_type and not x.committed and x.dtype.kind in PLAIN


def _staged(x: Any) -> np.ndarray | None:
    return None if isinstance(x, jax.Array) else x.copy()  # JAX may adopt NumPy's memory


def _cast(x: Any, new_dtype: Any, weak_type: bool, sharding: Any) -> np.ndarray | None:
    x = np.asarray(x)
    kind = getattr(new_dtype, "kind", "")
    if weak_type or kind not in PLAIN or (x.dtype.kind == "f" and kind != "f"):
        return None
    with np.errstate(all="ignore"):
        return x.astype(new_dtype)


def _broadcast(x: Any, shape: Any, broadcast_dimensions: Any, sharding: Any) -> np.ndarray:
    x = np.asarray(x)
    sizes = dict(zip(broadcast_dimensions, x.shape, strict=True))
    x = x.reshape([sizes.get(axis, 1) for axis in range(len(shape))])
    return np.array(np.broadcast_to(x, shape))


def _reshaped(x: Any, new_sizes: Any, dimensions: Any, sharding: Any) -> np.ndarray | None:
    return np.array(x).reshape(new_sizes) if dimensions is None else None


def _squeezed(x: Any, dimensions: Any) -> np.ndarray:
    return np.array(x).squeeze(tuple(dimensions))


def _cut_from_a_block(draw: Callable[..., Any], nothing_is_traced: Callable[[], bool]) -> Callable[..., Any]:
    """The first numbers of a longer draw are those of a shorter one: each hangs on its place alone.

    Blocks are kept: a module is built many times from the same seed.
    """
    kept: dict[Any, np.ndarray] = {}

    def block_of(size: int, args: Any, static: Any) -> np.ndarray:
        key, *numbers = args
        bits = np.asarray(jax.random.key_data(key)).tobytes()
        name = (bits, key.dtype, size, *map(float, numbers), static["dtype"])
        if name not in kept:
            if len(kept) == BLOCKS:
                kept.clear()
            kept[name] = np.asarray(draw(*args, **{**static, "shape": (size,)}))
        return kept[name]

    def drawn(*args: Any, **static: Any) -> Any:
        shape = static.get("shape")
        size = math.prod(shape) if shape else 0
        numbers = not any(map(np.ndim, args[1:]))
        on_a_mesh = not jax.sharding.get_abstract_mesh().empty
        if not 0 < size <= BLOCK or not numbers or on_a_mesh or not nothing_is_traced():
            return draw(*args, **static)
        block = block_of(4 ** -(-(size - 1).bit_length() // 2), args, static)
        return jax.device_put(block[:size].reshape(shape).copy())  # JAX may adopt NumPy's memory

    return drawn


def _has_no_sharding(tracer: Any) -> None:
    """As JAX says it, but for where the tracer came from: a module that draws asks, and for that it is searched."""
    raise AttributeError(f"The 'sharding' attribute is not available on {type(tracer).__name__}.")


def _shared(make: Callable[[], Any]) -> Callable[[], Any]:
    """Programs written in one context: to make one takes a third of the time to write a small program."""
    held: list[Any] = []
    count = itertools.count()

    def context() -> Any:
        if next(count) % USES == 0:
            held[:] = [make()]
        return held[0]

    return context
