"""Constants that torch keeps in float32 and Flax computes: what they are before rounding.

A float32 buffer, such as the inverse frequencies of rotary positions, is a number that was rounded when the
module was built. At position 8192 its last bit is an angle of 1e-3, so that a port which computes the same
formula in float64 is as far off, without any mistake. What the formula gives in float64 is known to Flax
alone. So a buffer, or a block of it, is taken for a constant of Flax's program where it is no further from
it than float32 comes by rounding: in float64 torch then gets that constant. Whatever is further away is
another number, and stays what it is.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from jax_attn.parity import tolerances
from jax_attn.parity.lanes import is_floating
from jax_attn.parity.runners.calls import Call
from jax_attn.parity.runners.lifting_flax import lifted_flax
from jax_attn.parity.runners.places import Places
from jax_attn.parity.runners.quick import quick_options
from jax_attn.parity.runners.trees import take_apart
from jax_attn.weights.rules import Names, slots
from jax_attn.weights.tensors import as_torch

EPS = float(np.finfo(np.float32).eps)

ULPS = 4
"""How far two float32 numbers may be apart that are meant to be one, each rounded by itself."""

BLOCKS = 64
"""A buffer is not looked at in more blocks than these."""

LOOPS = ("scan", "while", "cond")


@dataclass(frozen=True)
class Constant:
    """A constant of Flax's program: in float64, and how far from that float32 comes at most.

    `noise` is 0 where float32 has each of the numbers to its last digits, as it has frequencies; it has not
    the cosines of large angles.
    """

    exact: np.ndarray
    noise: float

    def is_rounded_to(self, block: np.ndarray) -> bool:
        """Whether numbers in float32 are this constant, rounded."""
        allowed = ULPS * EPS * np.abs(self.exact) + tolerances.NOISE_RATIO * self.noise
        return bool((np.abs(block - self.exact) <= allowed).all())


class FlaxConstants:
    """The constants of a Flax module's program: what depends on neither inputs nor weights.

    Args:
        module: any NNX module; it is traced, never run.
        names: the renaming rules of `load_state_dict`.
        call: `call(module, *args, **kwargs)`, in place of calling the module itself.
    """

    def __init__(self, module: nnx.Module, names: Names, call: Callable[..., Any] | None):
        self.call = call
        self.keys = {place.key for slot in slots(module, names) for place in slot.places}
        module = nnx.clone(module, graph=True)
        module.eval()
        split = nnx.split(module, (nnx.Param, nnx.BatchStat), ..., graph=True)
        self.graphdef, self.rest = split[0], split[2]
        self.weights = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), split[1])
        self._found: dict[Any, list[Constant]] = {}

    def of(self, call: Call, most: int) -> list[Constant]:
        """Those of a call, of up to `most` numbers."""
        key = call.form, tuple(array.shape for array in call.arrays), most
        if key not in self._found:
            try:
                self._found[key] = list(self._constants(call, most))
            except Exception:  # what Flax raises is reported where it runs
                self._found[key] = []
        return self._found[key]

    def _constants(self, call: Call, most: int) -> Iterator[Constant]:
        exact, single = (self._arrays(call, most, wide) for wide in (True, False))
        for array in exact:
            apart = [np.abs(other - array) for other in single if other.shape == array.shape]
            noise = min(apart, key=lambda a: float(a.max()), default=np.zeros(()))
            sharp = (noise <= ULPS * EPS * np.abs(array)).all()
            yield Constant(array, 0.0 if sharp else float(noise.max()))

    def _arrays(self, call: Call, most: int, wide: bool) -> list[np.ndarray]:
        """The constants in float64, as the lane of that name has them, or in float32."""
        width = np.float64 if wide else np.float32

        def shape(leaf: Any) -> Any:
            return jax.ShapeDtypeStruct(leaf.shape, width if is_floating(leaf) else leaf.dtype)

        def program(weights: Any, arrays: Any) -> Any:
            module = nnx.merge(self.graphdef, weights, rest)
            args, kwargs = call.form.build(list(arrays))
            value = module(*args, **kwargs) if self.call is None else self.call(module, *args, **kwargs)
            return take_apart(value)[1]

        with jax.enable_x64(wide), lifted_flax(Places() if wide else None):
            rest = jax.tree.map(
                lambda a: jnp.asarray(np.asarray(a), width) if is_floating(a) else a, self.rest
            )
            closed = jax.make_jaxpr(program)(*jax.tree.map(shape, (self.weights, call.arrays)))
            wanted = jax.jit(lambda: list(_wanted(closed, most)), compiler_options=quick_options())
            arrays = [np.squeeze(np.asarray(value, np.float64)) for value in wanted()]
        return [array for array in arrays if _is_rounded(array)]


def _wanted(program: ClosedJaxpr, most: int) -> Iterator[Any]:
    """The known values that a buffer could be, each once."""
    known = dict(zip(program.jaxpr.constvars, program.consts, strict=True))
    for value in {id(value): value for value in _known(program.jaxpr, known, most)}.values():
        if is_floating(value) and 1 < value.size <= most:
            yield value


def _is_rounded(array: np.ndarray) -> bool:
    """Whether there are numbers that float32 may have rounded; whole numbers, as masks hold, are none."""
    return array.size > 1 and bool(np.isfinite(array).all() and (array != np.round(array)).any())


def _known(jaxpr: Jaxpr, known: dict[Any, Any], most: int) -> Iterator[Any]:
    """The values in a program that need no inputs, those inside of functions it calls too; adds to `known`."""
    yield from known.values()
    for eqn in jaxpr.eqns:
        values = [var.val if isinstance(var, Literal) else known.get(var) for var in eqn.invars]
        inside = [sub for value in eqn.params.values() for sub in _programs(value)]
        if eqn.effects or any(getattr(var.aval, "size", 0) > most for var in eqn.outvars):
            continue
        for sub in inside:
            consts = dict(zip(sub.jaxpr.constvars, sub.consts, strict=True))
            count = eqn.params.get("num_consts", 0) if eqn.primitive.name in LOOPS else len(values)
            if len(sub.jaxpr.invars) == len(values):
                given = zip(sub.jaxpr.invars[:count], values, strict=False)
                consts |= {var: value for var, value in given if value is not None}
            yield from _known(sub.jaxpr, consts, most)
            if len(inside) == 1 and eqn.primitive.name not in LOOPS:
                outs = zip(eqn.outvars, sub.jaxpr.outvars, strict=True)
                known |= {
                    var: out.val if isinstance(out, Literal) else consts[out]
                    for var, out in outs
                    if isinstance(out, Literal) or out in consts
                }
        if not inside and all(value is not None for value in values):
            found = eqn.primitive.bind(*values, **eqn.params)
            outs = found if eqn.primitive.multiple_results else [found]
            known |= dict(zip(eqn.outvars, outs, strict=True))
            yield from outs


def _programs(value: Any) -> Iterator[ClosedJaxpr]:
    if isinstance(value, ClosedJaxpr):
        yield value
    elif isinstance(value, Jaxpr):
        yield ClosedJaxpr(value, ())
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _programs(part)


class RoundedBuffers:
    """The buffers of a torch module that are numbers rounded to float32, and that Flax was not given.

    Args:
        module: any torch module, in the dtypes that it came in.
        constants: those of Flax.
    """

    def __init__(self, module: Any, constants: FlaxConstants):
        import torch

        given = constants.keys & module.state_dict().keys()
        named = {key: buffer for key, buffer in module.named_buffers() if key not in given}
        arrays = {
            key: buffer.detach().numpy(force=True)
            for key, buffer in named.items()
            if buffer.dtype in (torch.float32, torch.complex64)
        }
        self.constants = constants
        self.arrays = {key: array.copy() for key, array in arrays.items() if _is_rounded(array)}
        self.most = max((array.size for array in self.arrays.values()), default=0)

    def lift(self, module: Any, call: Call) -> None:
        """Give a copy of the module, in 64 bits, those that are constants of Flax's in this call."""
        constants = self.constants.of(call, self.most) if self.arrays else []
        for key, array in self.arrays.items():
            exact = before_rounding(array, constants)
            if exact is not None:
                buffer = module.get_buffer(key)
                buffer.data = as_torch(exact).to(buffer.device, buffer.dtype)


def before_rounding(rounded: np.ndarray, constants: Sequence[Constant]) -> np.ndarray | None:
    """Numbers in float32 as they are in float64, where they are constants of Flax's; None if they are none."""
    wide = rounded.astype(np.complex128 if np.iscomplexobj(rounded) else np.float64)
    found = False
    for part in (wide.real, wide.imag) if np.iscomplexobj(wide) else (wide,):
        view = np.squeeze(part)
        single, nearest = view.copy(), dict[Any, float]()
        for constant, place in _places(view.shape, constants):
            apart = float(np.abs(single[place] - constant.exact).max())
            key = str(place)
            if apart < nearest.get(key, np.inf) and constant.is_rounded_to(single[place]):
                view[place], nearest[key], found = constant.exact, apart, True
    return wide if found else None


def _places(
    whole: tuple[int, ...], constants: Sequence[Constant]
) -> Iterator[tuple[Constant, tuple[slice, ...]]]:
    """Where each constant, or a block of it, may stand in an array of this shape."""
    for constant in constants:
        shape = constant.exact.shape
        if len(shape) == len(whole):
            block = tuple(map(min, shape, whole))
            for source in _blocks(shape, block):
                for place in _blocks(whole, block):
                    yield Constant(constant.exact[source], constant.noise), place


def _blocks(whole: tuple[int, ...], part: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """The first places side by side that a part of this shape has in the whole."""
    starts = (range(0, size - step + 1, step) for size, step in zip(whole, part, strict=True))
    for corner in itertools.islice(itertools.product(*starts), BLOCKS):
        yield tuple(slice(start, start + step) for start, step in zip(corner, part, strict=True))
