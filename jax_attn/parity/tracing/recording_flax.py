"""Records every submodule's calls on the Flax side.

The module runs operation by operation, so that there are numbers to be seen. Where a submodule is called
inside `jit`, jit is turned off.
"""

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_attn.parity.comparison import Comparison
from jax_attn.parity.lanes import Lane
from jax_attn.parity.runners.calls import Call
from jax_attn.parity.runners.dropout import Tape
from jax_attn.parity.runners.dropout_flax import replay
from jax_attn.parity.runners.flax_runner import FlaxSide, paired_draws
from jax_attn.parity.runners.trees import Skeleton, pair, take_apart
from jax_attn.parity.tracing.observers import GradientObserver, Observer
from jax_attn.parity.tracing.recording import Recording, is_float
from jax_attn.parity.tracing.wrapping import InsideJit, ModuleRun, first_paths, mark, walk, wrapped


class FlaxRecorder(FlaxSide):
    """The Flax module of a comparison, whose runs are recorded."""

    anew = False  # operation by operation, what is compiled once serves every recorder

    def __init__(self, sides: Comparison, lane: Lane):
        super().__init__(replace(sides, gradients=True), lane)
        self.slots = [replace(slot, variable=_abstract(slot.variable)) for slot in self.slots]
        self.kind = type(sides.flax).__name__
        self.classes = {type(submodule) for submodule, _ in walk(sides.flax)}
        self.first = first_paths(sides.as_defined)
        self.without_jit = False

    def record(self, call: Call, observer: Observer | None = None, *, tape: Tape | None = None) -> Recording:
        """One forward run of the module."""
        try:
            return self._forward(call, observer or Observer(), tape)
        except InsideJit:
            self.without_jit = True
            return self._forward(call, observer or Observer(), tape)

    def record_gradients(
        self,
        call: Call,
        skeleton: Skeleton,
        weights: list[np.ndarray],
        observer: Observer | None = None,
        *,
        tape: Tape | None = None,
    ) -> Recording:
        """One run forward and backward, in which the gradients are recorded; after `record`.

        Args:
            call: the call, in the lane's dtype.
            skeleton: the structure of torch's outputs.
            weights: the cotangent of each floating output.
            observer: what happens at each call.
            tape: the dropout masks that torch drew.
        """
        recording = Recording("flax")
        self._lift(call)

        def forward(trained: list[jax.Array], floating: list[jax.Array]) -> list[jax.Array]:
            value = self._run(trained, call, floating)
            found, tensors = take_apart(value)
            return [
                jnp.asarray(t) for t in (tensors[index] for index in pair(skeleton, found)) if is_float(t)
            ]

        trained = [self.leaves[position] for position in self.trained]
        with (
            recording.failures_kept(self.kind),
            self._around(recording, observer or GradientObserver(), tape),
        ):
            outputs, pullback = jax.vjp(forward, trained, self._floating(call))
            pulled = [w.astype(y.dtype) for w, y in zip(weights, outputs, strict=True)]
            gradients, by_input = jax.tree.map(np.asarray, pullback(pulled))
            by_position = dict(zip(self.trained, gradients, strict=True))
            recording.parameter_gradients = self._in_torch_layout(by_position)
            recording.whole.gradients = dict(zip(call.floating_names, by_input, strict=True))
        return recording

    def _forward(self, call: Call, observer: Observer, tape: Tape | None) -> Recording:
        recording = Recording("flax")
        self._lift(call)
        observer.start()
        recording.whole.inputs = dict(zip(call.form.names, call.arrays, strict=True))
        with recording.failures_kept(self.kind), self._around(recording, observer, tape):
            trained = [self.leaves[position] for position in self.trained]
            value = self._run(trained, call, self._floating(call))
            recording.whole.returned(value, np.asarray)
        return recording

    def _floating(self, call: Call) -> list[jax.Array]:
        arrays = zip(call.arrays, call.form.floating, strict=True)
        with self._surroundings():
            return [jnp.asarray(array) for array, floating in arrays if floating]

    def _run(self, trained: list[jax.Array], call: Call, floating: list[jax.Array]) -> Any:
        module, _ = self._merged(self.leaves, trained)
        mark(module, self.first)
        given = zip(call.arrays, call.form.floating, strict=True)
        arrays = [array if is_floating else jnp.asarray(array) for array, is_floating in given]
        return self._value(module, call.form, arrays, floating)

    @contextmanager
    def _around(self, recording: Recording, observer: Observer, tape: Tape | None) -> Generator[None]:
        with ExitStack() as around:
            around.enter_context(self._surroundings())
            if tape is not None:
                masks = [jnp.asarray(mask) for mask in tape.masks]
                around.enter_context(replay(masks, paired_draws(tape, self.pairs), jitted=False))
            without_jit = self.without_jit or tape is not None
            if without_jit:
                around.enter_context(jax.disable_jit())
            run = ModuleRun(recording, observer, refuse_tracers=not without_jit)
            around.enter_context(wrapped(self.classes, run))
            yield


def _abstract(variable: nnx.Variable) -> nnx.Variable:
    """The variable without its value, which would be kept alive beside the lane's copy."""
    value = variable.get_value()
    return type(variable)(jax.ShapeDtypeStruct(value.shape, value.dtype))
