"""Runs the Flax module: on a copy, in a lane's dtype, with all gradients, in one jitted function."""

from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_attn.nn.primitives import Buffer
from jax_attn.parity.comparison import Comparison
from jax_attn.parity.lanes import Lane, is_floating, is_inexact
from jax_attn.parity.runners.calls import Call, Form
from jax_attn.parity.runners.dropout import Draw, Tape
from jax_attn.parity.runners.dropout_flax import replay, replayed
from jax_attn.parity.runners.dropout_places import innermost, mark_places
from jax_attn.parity.runners.lifting_flax import lifted_flax
from jax_attn.parity.runners.places import Places
from jax_attn.parity.runners.quick import quick_options
from jax_attn.parity.runners.rounded_leaves import RoundedLeaves
from jax_attn.parity.runners.run import Buffers, Run
from jax_attn.parity.runners.torch_keys import parameters_of
from jax_attn.parity.runners.trees import Skeleton, pair, take_apart
from jax_attn.parity.runners.widths import Widths, widths_in_flax
from jax_attn.weights.rules import Slot, joined, slots

CONSTANT = (Buffer, nnx.BatchStat)


class FlaxSide:
    """A copy of the Flax module of a comparison, ready to run in one lane. In float64, float32 inside is lifted.

    Calls of one form share a compilation.

    Args:
        sides: what is compared; its module is never changed.
        lane: its dtype and mode.
        kept: torch keys of what stays in a wider dtype than the lane's.
        given: torch keys of what a checkpoint holds; other constants keep their dtype.

    Attributes:
        places: where float32 was lifted; None in a lane where it is not.
    """

    anew = True
    """Whether all is traced anew, so that `places` has what another run has traced before."""

    def __init__(
        self, sides: Comparison, lane: Lane, kept: Collection[str] = (), given: Collection[str] = ()
    ):
        self.pairs = sides.certain_pairs if lane.training else {}  # for the dropout masks
        module = prepared(sides.flax, lane, lane.training, self.pairs)
        constants = sides.torch_constants if lane.exact else None  # for what the module keeps in float32
        self.lane = lane
        self.places = Places() if lane.exact else None
        self.call = sides.call_flax
        self.names = sides.names
        every = slots(module, self.names)
        self.gradients = sides.gradients
        self.slots = [slot for slot in every if trains(slot)] if self.gradients else []
        self.graphdef, state = nnx.split(module, graph=True)
        paths, self.treedef = jax.tree_util.tree_flatten_with_path(state)
        index = {dotted(path): position for position, (path, _) in enumerate(paths)}
        position = {id(slot.variable): index[slot.path] for slot in every if slot.path in index}
        wide = _wide(every, position, paths, lane, kept, given)
        known = [(slot, position[id(slot.variable)]) for slot in every if id(slot.variable) in position]
        self.rounded = RoundedLeaves(known, [leaf for _, leaf in paths], constants)
        with self._surroundings():
            # In NumPy: a cast in JAX would be compiled for every shape there is, and so is `jnp.asarray`.
            self.leaves = [
                jax.device_put(lane.cast(np.asarray(leaf)) if position not in wide else np.asarray(leaf))
                if is_inexact(leaf)
                else leaf
                for position, (_, leaf) in enumerate(paths)
            ]
        learned = parameters_of(sides.torch).keys()  # whatever they are in Flax
        self.weights = [
            (slot, where)
            for slot, where in known
            if isinstance(slot.variable, nnx.Param) or any(place.key in learned for place in slot.places)
        ]
        self.positions = [position[id(slot.variable)] for slot in self.slots]
        self.trained = sorted(set(self.positions))
        # What a call may change, if it is to be compared: everything but the parameters.
        self.buffers = [
            (replace(slot, variable=nnx.Variable(None)), position[id(slot.variable)])
            for slot in every
            if lane.exact and id(slot.variable) in position and not isinstance(slot.variable, nnx.Param)
        ]
        options = quick_options() if sides.quick else None
        self.jitted = jax.jit(self._compute, static_argnums=(4, 5, 6), compiler_options=options)

    def run(self, call: Call, skeleton: Skeleton, weights: list[np.ndarray], tape: Tape | None = None) -> Run:
        """The outputs, paired with torch's `skeleton`, and all gradients of one call.

        Args:
            call: the call, in the lane's dtype.
            skeleton: the structure of torch's outputs.
            weights: the cotangent of each floating output.
            tape: the dropout masks that torch drew.

        Raises:
            Mismatch: the outputs cannot be paired.
            DropoutMismatch: dropout is called otherwise than in torch.
        """
        masks, draws = (None, ()) if tape is None else (tape.masks, paired_draws(tape, self.pairs))
        self._lift(call)
        arrays = self.leaves, list(call.arrays), weights, masks
        static = call.form, skeleton, draws
        with self._surroundings():
            found = replayed(self.jitted, self._compute, arrays, static, owner=self if tape else None)
            outputs, gradients, by_input, changed = jax.tree.map(np.asarray, found)
        by_key = self._in_torch_layout(dict(zip(self.trained, gradients, strict=True)))
        return Run(outputs, by_key, by_input, self._buffers(changed) if self.lane.exact else None)

    def widths(self, call: Call, skeleton: Skeleton, weights: list[np.ndarray]) -> Widths:
        """The dtypes that functions are given in a call, found without running it."""
        arguments = (self.leaves, list(call.arrays), weights, None, call.form, skeleton, ())
        with self._surroundings():
            return widths_in_flax(self.jitted.trace(*arguments).jaxpr)

    def _lift(self, call: Call) -> None:
        """Give what the module keeps in float32 back what rounding took, where torch computes it in the call."""
        with jax.enable_x64(self.lane.exact):
            self.rounded.lift(self.leaves, call)

    def _compute(
        self,
        leaves: list[jax.Array],
        arrays: list[jax.Array],
        weights: list[jax.Array],
        masks: list[jax.Array] | None,
        form: Form,
        skeleton: Skeleton,
        draws: tuple[Draw, ...],
    ) -> Any:
        def forward(trained: list[jax.Array], floating: list[jax.Array]) -> Any:
            module, state = self._merged(leaves, trained)
            with nullcontext() if masks is None else replay(masks, draws):
                value = self._value(module, form, arrays, floating)
            found, tensors = take_apart(value)
            ordered = [jnp.asarray(tensors[index]) for index in pair(skeleton, found)]
            floats = [_real(tensor) for tensor in ordered if is_inexact(tensor)]
            return floats, (ordered, self._changed(module, state))

        trained = [leaves[position] for position in self.trained]
        floating = [a for a, is_float in zip(arrays, form.floating, strict=True) if is_float]
        if not self.gradients:
            _, (ordered, changed) = forward(trained, floating)
            return ordered, [], [], changed
        floats, pullback, (ordered, changed) = jax.vjp(forward, trained, floating, has_aux=True)
        pulled = [w.astype(output.dtype) for w, output in zip(weights, floats, strict=True)]
        gradients, by_input = pullback(pulled)
        # The gradient by a complex number is the conjugate of torch's.
        return ordered, jax.tree.map(jnp.conj, gradients), jax.tree.map(jnp.conj, by_input), changed

    def _merged(self, leaves: Sequence[Any], trained: Sequence[Any]) -> tuple[nnx.Module, list[Any]]:
        """The module with these leaves, and `trained` ones in their places; and all of its leaves."""
        state = list(leaves)
        for position, leaf in zip(self.trained, trained, strict=True):
            state[position] = leaf
        return nnx.merge(self.graphdef, jax.tree.unflatten(self.treedef, state)), state

    def _value(self, module: nnx.Module, form: Form, arrays: Sequence[Any], floating: Iterable[Any]) -> Any:
        """What the module gives for these arrays, with the `floating` ones in their places."""
        waiting = iter(floating)
        given = zip(arrays, form.floating, strict=True)
        args, kwargs = form.build([next(waiting) if is_float else array for array, is_float in given])
        return module(*args, **kwargs) if self.call is None else self.call(module, *args, **kwargs)

    def _changed(self, module: nnx.Module, state: Sequence[jax.Array]) -> dict[int, jax.Array]:
        """The state beside the parameters that the call has written to, by position."""
        if not self.buffers:
            return {}
        now = {slot.path: slot.variable.get_value() for slot in slots(module, self.names)}
        written = ((position, now.get(slot.path)) for slot, position in self.buffers)
        return {
            position: jnp.asarray(value)
            for position, value in written
            if value is not None and value is not state[position]
        }

    def _buffers(self, changed: Mapping[int, np.ndarray]) -> Buffers:
        before = {position: np.asarray(self.leaves[position]) for _, position in self.buffers}
        kept = self._in_torch_layout(before, self.buffers)
        return Buffers(kept, self._in_torch_layout({**before, **changed}, self.buffers) if changed else kept)

    def _in_torch_layout(
        self, arrays: Mapping[int, np.ndarray], where: Iterable[tuple[Slot, int]] | None = None
    ) -> dict[str, np.ndarray]:
        """Arrays by position; those that are trained, or those of `where`."""
        chosen = zip(self.slots, self.positions, strict=True) if where is None else where
        return in_torch_layout((slot, arrays[position]) for slot, position in chosen)

    @contextmanager
    def _surroundings(self) -> Generator[None]:
        exact, lifted = jax.enable_x64(self.lane.exact), lifted_flax(self.places, self.anew)
        with exact, lifted, jax.default_matmul_precision("highest"):
            yield


def paired_draws(tape: Tape, pairs: Mapping[str, str]) -> tuple[Draw, ...]:
    """What is known of each draw; its place is the innermost of torch's modules that has a counterpart."""
    theirs = set(pairs.values())
    return tuple(replace(draw, place=innermost(draw.place, theirs)) for draw in tape.draws)


def prepared(module: nnx.Module, lane: Lane, training: bool, pairs: Mapping[str, str]) -> nnx.Module:
    """Return a copy of the module to run in a lane and a mode, marked with `pairs` for the dropout masks."""
    module = nnx.clone(module, graph=True)
    module.train() if training else module.eval()
    if pairs:
        mark_places(module, pairs)
    for _, node in nnx.iter_modules(module, graph=True):
        # It takes its table's dtype for a dtype that it was given, and would hold on to it.
        if isinstance(node, nnx.Embed) and node.dtype == node.embedding.dtype:
            node.dtype = jnp.dtype(lane.dtype)
    return module


def in_torch_layout(leaves: Iterable[tuple[Slot, Any]]) -> dict[str, np.ndarray]:
    """Return leaves, each with its slot, by torch key and in torch's layout."""
    return joined(
        pair
        for slot, leaf in leaves
        for pair in zip(slot.places, slot.to_torch(np.asarray(leaf)), strict=True)
    )


def trains(slot: Slot) -> bool:
    """Whether a variable is one that has a gradient: floating or complex, and no constant of the module's."""
    return is_inexact(slot.variable.get_value()) and not isinstance(slot.variable, CONSTANT)


def _wide(
    every: Sequence[Slot],
    position: Mapping[int, int],
    paths: Sequence[Any],
    lane: Lane,
    kept: Collection[str],
    given: Collection[str],
) -> set[int]:
    """Positions of leaves that are not rounded: what torch keeps, and constants that no checkpoint has."""
    wide = set(range(len(paths))) - set(position.values())
    for slot in every:
        if id(slot.variable) in position:
            constant = isinstance(slot.variable, Buffer) or (
                not isinstance(slot.variable, nnx.Param | nnx.BatchStat)
                and not any(place.key in given for place in slot.places)
            )
            if constant or all(place.key in kept for place in slot.places):
                wide.add(position[id(slot.variable)])
    return {
        number
        for number in wide
        if is_floating(leaf := paths[number][1]) and lane.narrows(leaf.dtype) and leaf.dtype != np.float64
    }


def _real(tensor: jax.Array) -> jax.Array:
    """A complex tensor as pairs of floats, as torch's `view_as_real`."""
    return jnp.stack([tensor.real, tensor.imag], -1) if jnp.iscomplexobj(tensor) else tensor


def dotted(path: Sequence[Any]) -> str:
    """Return the keys of a path, joined by dots."""
    return ".".join(str(key.key) for key in path if hasattr(key, "key"))
