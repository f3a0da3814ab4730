"""What happens at each call of a submodule of Flax: inputs, outputs and their gradients are looked at."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from jax_attn.parity.tracing.recording import CallRecord, is_float, named_tensors, opened, replace_tensors

AnyArray = jax.Array | np.ndarray


class Unseen(Exception):
    """Raised by an observer at a value that is being traced."""


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
        return replace_tensors(call.parameters, args, kwargs, partial(self._watch, call, {}))

    def _watch(self, call: CallRecord, own: dict[int, Any], name: str, leaf: Any) -> Any:
        if not _differentiable(leaf):
            call.unwatched.add(name)
            return leaf
        if id(leaf) not in own:  # one array given twice stays one array, as on the other side
            own[id(leaf)] = _watched(partial(self.at, call, name), leaf)
        return own[id(leaf)]

    def returned(self, call: CallRecord, value: Any) -> Any:
        """The output, with a watch on its gradient."""
        try:
            _, tensors = opened(value)
        except TypeError:
            return value
        watched = {
            id(leaf): _watched(partial(self.at, call, position), leaf)
            for position, leaf in enumerate(tensors)
            if _differentiable(leaf)
        }
        reached = watched.keys() & {id(leaf) for leaf in jax.tree.leaves(value)}
        call.unwatched |= {position for position, leaf in enumerate(tensors) if id(leaf) not in reached}
        return jax.tree.map(lambda leaf: watched.get(id(leaf), leaf), value)

    def at(self, call: CallRecord, key: str | int, gradient: AnyArray) -> AnyArray:
        """The gradient of an output, by its position; or what this call adds to that of an input, by its name."""
        if not isinstance(gradient, Tracer):
            call.gradients[key] = np.asarray(gradient)
        return gradient


def seen(leaf: Any) -> np.ndarray:
    """The leaf's numbers; `Unseen` if it has none as yet."""
    if isinstance(leaf, Tracer):
        raise Unseen
    return np.asarray(leaf)


def _differentiable(leaf: Any) -> bool:
    """Whether anything that we differentiate by reaches this far: else the leaf is no tracer."""
    return isinstance(leaf, Tracer) and is_float(leaf)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _watched(look: Callable[[AnyArray], AnyArray], x: jax.Array) -> jax.Array:
    """`x`; its gradient goes through `look` on the way back."""
    return x


def _watched_forward(look: Any, x: jax.Array) -> tuple[jax.Array, None]:
    return x, None


def _watched_backward(look: Callable[[AnyArray], AnyArray], _: None, gradient: AnyArray) -> Any:
    return (look(gradient),)


_watched.defvjp(_watched_forward, _watched_backward)
