"""Constants that torch keeps in float32 and Flax computes: what they are before rounding.

A float32 tensor, such as the inverse frequencies of rotary positions, is a number that was rounded when the
module was built. At position 8192 its last bit is an angle of 1e-3, so that a port which computes the same
formula in float64 is as far off, without any mistake. What the formula gives in float64 is known to Flax
alone. So a tensor that learns nothing, or a block of it, is taken for a constant of Flax's program where it is
no further from it than float32 comes by rounding: in float64 torch then gets that constant. Whatever is further
away is another number, and stays what it is.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.dtypes import canonicalize_dtype
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from jax_attn.parity.lanes import is_floating
from jax_attn.parity.runners.calls import Call
from jax_attn.parity.runners.lifting_flax import lifted_flax
from jax_attn.parity.runners.places import Places
from jax_attn.parity.runners.quick import quick_options
from jax_attn.parity.runners.rounding import Constant, before_rounding, may_be_rounded, measured
from jax_attn.parity.runners.torch_casts import constants as constants_of
from jax_attn.parity.runners.torch_keys import state_keys
from jax_attn.parity.runners.trees import take_apart
from jax_attn.weights.rules import Names, slots
from jax_attn.weights.tensors import as_torch

LOOPS = ("scan", "while", "cond")


class FlaxConstants:
    """The constants of a Flax module's program: what depends on neither inputs nor weights.

    Args:
        module: any NNX module; it is traced, never run.
        names: the renaming rules of `load_state_dict`.
        call: `call(module, *args, **kwargs)`, in place of calling the module itself.
    """

    def __init__(self, module: nnx.Module, names: Names, call: Callable[..., Any] | None):
        self.call = call
        self.shapes = {
            place.key: slot.whole_shape(place) for slot in slots(module, names) for place in slot.places
        }
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
        return measured(*(self._arrays(call, most, wide) for wide in (True, False)))

    def _arrays(self, call: Call, most: int, wide: bool) -> list[np.ndarray]:
        """The constants in float64, as the lane of that name has them, or in float32."""
        width = np.float64 if wide else np.float32

        def shape(leaf: Any) -> Any:
            return jax.ShapeDtypeStruct(
                leaf.shape, width if is_floating(leaf) else canonicalize_dtype(leaf.dtype)
            )

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
        return [array for array in arrays if may_be_rounded(array)]


def _wanted(program: ClosedJaxpr, most: int) -> Iterator[Any]:
    """The known values that a buffer could be, each once."""
    known = dict(zip(program.jaxpr.constvars, program.consts, strict=True))
    for value in {id(value): value for value in _known(program.jaxpr, known, most)}.values():
        if is_floating(value) and 0 < np.size(value) <= most:  # a literal has no size of its own
            yield value


def _known(jaxpr: Jaxpr, known: dict[Any, Any], most: int) -> Iterator[Any]:
    """The values in a program that need no inputs, those inside of functions it calls too; adds to `known`."""
    yield from known.values()
    for eqn in jaxpr.eqns:
        values = [var.val if isinstance(var, Literal) else known.get(var) for var in eqn.invars]
        yield from (np.asarray(var.val) for var in eqn.invars if isinstance(var, Literal))
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
    """What a torch module keeps in float32, learns nothing by, and did not give to Flax.

    Args:
        module: any torch module, in the dtypes that it came in.
        constants: those of Flax.
    """

    def __init__(self, module: Any, constants: FlaxConstants):
        import torch

        state = module.state_dict()
        keys = state_keys(module)
        given = {key for key in state if constants.shapes.get(key) == tuple(np.shape(state[key]))}
        kept = {
            name: tensor.detach().numpy(force=True).copy()
            for name, tensor in _unlearned(module)
            if tensor.dtype in (torch.float32, torch.complex64) and not given.intersection(keys.get(name, ()))
        }
        self.constants = constants
        self.arrays = {name: array for name, array in kept.items() if may_be_rounded(array)}
        self.most = 2 * max((array.size for array in self.arrays.values()), default=0)
        self._given: dict[str, np.ndarray] = {}

    def lift(self, module: Any, call: Call) -> None:
        """Give a copy of the module, in 64 bits, those that are constants of Flax's in this call."""
        if not self.arrays:
            return
        constants = self.constants.of(call, self.most)
        for name, tensor in [*module.named_parameters(), *constants_of(module)]:
            exact = before_rounding(self.arrays[name], constants) if name in self.arrays else None
            if exact is not None:
                now = tensor.numpy(force=True)
                if np.array_equal(self._given.get(name, now), now):  # what a call has changed is no constant
                    tensor.data = as_torch(exact).to(tensor.device, tensor.dtype)
                    self._given[name] = exact


def _unlearned(module: Any) -> Iterator[tuple[str, Any]]:
    """Buffers, plain attributes and frozen parameters of a torch module, by name."""
    yield from constants_of(module)
    yield from ((name, p) for name, p in module.named_parameters() if not p.requires_grad)
