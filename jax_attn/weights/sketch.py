"""A module whose arrays are not computed, but for those that are asked for."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax.core import eval_jaxpr

Wanted = Callable[[tuple[Any, ...], Any], bool]  # of a leaf's path and variable, as in `nnx.filter_state`


class Sketch:
    """What a constructor makes, from one trace of it: most of its time goes to tracing.

    Attributes:
        module: the module; each of its arrays is a `jax.ShapeDtypeStruct`.
    """

    def __init__(self, build: Callable[[nnx.Rngs], nnx.Module], seed: int = 0):
        """Trace `build(rngs)`, of random numbers from a seed."""

        structure = []

        def arrays() -> nnx.State:
            graphdef, state = nnx.split(build(_rngs(seed)))
            structure.append(graphdef)
            return state

        traced = jax.jit(arrays).trace()
        self._program, self._shapes = traced.jaxpr, traced.out_info
        self.module: Any = nnx.merge(structure[0], self._shapes)

    def compute(self, wanted: Wanted) -> nnx.State:
        """The arrays that are wanted, from a program out of which XLA has removed all that nobody asks for."""

        def chosen() -> nnx.State:
            arrays = eval_jaxpr(self._program.jaxpr, self._program.consts)
            return nnx.filter_state(jax.tree.unflatten(jax.tree.structure(self._shapes), arrays), wanted)

        return jax.jit(chosen)()


def without_weights(build: Callable[[nnx.Rngs], nnx.Module], seed: int = 0) -> nnx.Module:
    """The module that `build(rngs)` makes, its parameters abstract and everything else real."""
    sketch = Sketch(build, seed)
    nnx.update(sketch.module, sketch.compute(lambda _, leaf: not isinstance(leaf, nnx.Param)))
    return sketch.module


def _rngs(seed: int) -> nnx.Rngs:
    rngs: Any = nnx.Rngs(seed)
    rngs.default = _Stream(seed, tag="default")
    return rngs


class _Stream(nnx.RngStream):
    """The same numbers, counted outside JAX: traced, the counts would take longer than all the rest."""

    count: Any

    def __init__(self, key: Any, *, tag: str):
        super().__init__(key, tag=tag)
        self.count.set_value(np.uint32(0))

    def __call__(self) -> jax.Array:
        count = self.count.get_value()
        self.count.set_value(count + np.uint32(1))
        return jax.random.fold_in(self.key[...], count)

    def fork(self, *, split: Any = None) -> nnx.RngStream:
        """For what the module keeps: an ordinary stream."""
        return super().fork(split=split) if split is not None else nnx.RngStream(self(), tag=self.tag)
