"""Records every submodule's calls on the Flax side: inputs, outputs and their gradients.

The module runs operation by operation, so that there are numbers to be seen. Where a submodule is called
inside `jit`, jit is turned off.
"""

from collections.abc import Callable, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer

from jax_attn.parity.calls import Call
from jax_attn.parity.dropout import Tape, replay
from jax_attn.parity.flax_side import FlaxSide
from jax_attn.parity.lanes import Lane
from jax_attn.parity.recording import CallRecord, Recording, is_float, named_tensors, replace_tensors
from jax_attn.parity.trees import Skeleton, pair, take_apart
from jax_attn.parity.wrapping import InsideJit, Run, Unseen, mark, walk, wrapped
from jax_attn.weights.rules import Names


class Observer:
    """What happens at a call: this one looks on. Those that derive from it change inputs and outputs."""

    def start(self) -> None:
        """A run begins."""

    def given(self, call: CallRecord, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments that the module shall get."""
        tensors = named_tensors(call.parameters, args, kwargs)
        call.inputs = {name: seen(leaf) for name, leaf in tensors.items()}
        return args, kwargs

    def returned(self, call: CallRecord, value: Any) -> Any:
        """What the caller shall get."""
        call.returned(value, seen)
        return value


class GradientObserver(Observer):
    """Looks on at the gradients as the backward pass comes by."""

    def given(self, call: CallRecord, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments, with a watch on the gradient of each."""
        own: dict[int, Any] = {}

        def watch(name: str, leaf: Any) -> Any:
            if not _differentiable(leaf):
                return leaf
            if id(leaf) not in own:  # one array given twice stays one array, as on the other side
                own[id(leaf)] = _watched(partial(self.at_input, call, name), leaf)
            return own[id(leaf)]

        return replace_tensors(call.parameters, args, kwargs, watch)

    def returned(self, call: CallRecord, value: Any) -> Any:
        """The output, with a watch on its gradient."""
        try:
            _, tensors = take_apart(value)
        except TypeError:
            return value
        watched = {
            id(leaf): _watched(partial(self.at_output, call, position), leaf)
            for position, leaf in enumerate(tensors)
            if _differentiable(leaf)
        }
        reached = {id(leaf) for leaf in jax.tree.leaves(value)}
        call.unwatched = {position for position, leaf in enumerate(tensors) if id(leaf) not in reached}
        return jax.tree.map(lambda leaf: watched.get(id(leaf), leaf), value)

    def at_input(self, call: CallRecord, name: str, gradient: jax.Array) -> jax.Array:
        """The gradient that this call adds to an input's."""
        if not isinstance(gradient, Tracer):
            call.input_gradients[name] = np.asarray(gradient)
        return gradient

    def at_output(self, call: CallRecord, position: int, gradient: jax.Array) -> jax.Array:
        """The gradient of an output."""
        if not isinstance(gradient, Tracer):
            call.output_gradients[position] = np.asarray(gradient)
        return gradient


class FlaxRecorder(FlaxSide):
    """A Flax module whose runs are recorded. A module that occurs twice goes by its first path."""

    def __init__(self, module: nnx.Module, lane: Lane, names: Names, call: Callable[..., Any] | None):
        super().__init__(module, lane, names, call)
        self.slots = [replace(slot, variable=_abstract(slot.variable)) for slot in self.slots]
        self.kind = type(module).__name__
        self.classes = {type(submodule) for submodule, _ in walk(module)}
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

        def forward(trained: list[jax.Array], floating: list[jax.Array]) -> list[jax.Array]:
            value = self._call(self._module(trained), call, floating)
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
            recording.whole.input_gradients = dict(zip(call.floating_names, by_input, strict=True))
        return recording

    def _forward(self, call: Call, observer: Observer, tape: Tape | None) -> Recording:
        recording = Recording("flax")
        observer.start()
        recording.whole.inputs = dict(zip(call.form.names, call.arrays, strict=True))
        with recording.failures_kept(self.kind), self._around(recording, observer, tape):
            trained = [self.leaves[position] for position in self.trained]
            value = self._call(self._module(trained), call, self._floating(call))
            recording.whole.returned(value, np.asarray)
        return recording

    def _floating(self, call: Call) -> list[jax.Array]:
        arrays = zip(call.arrays, call.form.floating, strict=True)
        with self._surroundings():
            return [jnp.asarray(array) for array, floating in arrays if floating]

    def _module(self, trained: list[jax.Array]) -> nnx.Module:
        leaves = list(self.leaves)
        for position, leaf in zip(self.trained, trained, strict=True):
            leaves[position] = leaf
        module = nnx.merge(self.graphdef, jax.tree.unflatten(self.treedef, leaves))
        mark(module)
        return module

    def _call(self, module: nnx.Module, call: Call, floating: list[jax.Array]) -> Any:
        waiting = iter(floating)
        arrays = zip(call.arrays, call.form.floating, strict=True)
        args, kwargs = call.form.build(
            [next(waiting) if is_floating else jnp.asarray(array) for array, is_floating in arrays]
        )
        return module(*args, **kwargs) if self.call is None else self.call(module, *args, **kwargs)

    @contextmanager
    def _around(self, recording: Recording, observer: Observer, tape: Tape | None) -> Generator[None]:
        with ExitStack() as around:
            around.enter_context(self._surroundings())
            if tape is not None:
                around.enter_context(replay([jnp.asarray(mask) for mask in tape.masks], tape.rates))
            if self.without_jit:
                around.enter_context(jax.disable_jit())
            run = Run(recording, observer, refuse_tracers=not self.without_jit)
            around.enter_context(wrapped(self.classes, run))
            yield


def _abstract(variable: nnx.Variable) -> nnx.Variable:
    """The variable without its value, which would be kept alive beside the lane's copy."""
    value = variable.get_value()
    return type(variable)(jax.ShapeDtypeStruct(value.shape, value.dtype))


def seen(leaf: Any) -> np.ndarray:
    """The leaf's numbers; `Unseen` if it has none as yet."""
    if isinstance(leaf, Tracer):
        raise Unseen
    return np.asarray(leaf)


def _differentiable(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and is_float(leaf)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _watched(look: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    """`x`; its gradient goes through `look` on the way back."""
    return x


def _watched_forward(look: Any, x: jax.Array) -> tuple[jax.Array, None]:
    return x, None


def _watched_backward(look: Callable[[jax.Array], jax.Array], _: None, gradient: jax.Array) -> Any:
    return (look(gradient),)


_watched.defvjp(_watched_forward, _watched_backward)
