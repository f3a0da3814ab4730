"""Runs the Flax module: on a copy, in a lane's dtype, with all gradients, in one jitted function."""

from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_attn.nn.primitives import Buffer
from jax_attn.parity.lanes import Lane, is_floating, is_inexact
from jax_attn.parity.runners.calls import Call, Form
from jax_attn.parity.runners.dropout import Draw, Tape, TooFewDraws, fresh_trace, replay
from jax_attn.parity.runners.dropout_places import innermost, mark_places
from jax_attn.parity.runners.lifting_flax import lifted_flax
from jax_attn.parity.runners.places import Places
from jax_attn.parity.runners.quick import quick_options
from jax_attn.parity.runners.rounded_leaves import RoundedLeaves
from jax_attn.parity.runners.run import Buffers, Run
from jax_attn.parity.runners.torch_constants import TorchConstants
from jax_attn.parity.runners.trees import Skeleton, pair, take_apart
from jax_attn.parity.runners.widths import Widths, widths_in_flax
from jax_attn.weights.rules import Names, Slot, joined, slots

CONSTANT = (Buffer, nnx.BatchStat)


class FlaxSide:
    """A copy of a Flax module, ready to run in one lane. In float64, float32 inside is lifted.

    Calls of one form share a compilation.

    Args:
        module: copied, and never changed.
        lane: its dtype and mode.
        names: the renaming rules of `load_state_dict`.
        call: `call(module, *args, **kwargs)`, in place of calling the module itself.
        quick: compile quickly rather than for speed.
        kept: torch keys of what stays in a wider dtype than the lane's.
        gradients: whether to take them.
        pairs: torch's path of each Flax path that has a counterpart, for the dropout masks.
        constants: those of torch, for what the module keeps of them in float32.
        given: torch keys of what a checkpoint holds; other constants keep their dtype.

    Attributes:
        places: where float32 was lifted; None in a lane where it is not.
    """

    anew = True
    """Whether all is traced anew, so that `places` has what another run has traced before."""

    def __init__(
        self,
        module: nnx.Module,
        lane: Lane,
        names: Names,
        call: Callable[..., Any] | None,
        quick: bool = True,
        kept: Collection[str] = (),
        gradients: bool = True,
        pairs: Mapping[str, str] | None = None,
        constants: TorchConstants | None = None,
        given: Collection[str] = (),
    ):
        module = nnx.clone(module, graph=True)
        module.train() if lane.training else module.eval()
        self.pairs = pairs or {}
        if self.pairs:
            mark_places(module, self.pairs)
        _free_dtypes(module, lane)
        self.lane = lane
        self.places = Places() if lane.exact else None
        self.call = call
        self.names = names
        every = slots(module, names)
        self.slots = [slot for slot in every if trains(slot)] if gradients else []
        self.gradients = gradients
        self.graphdef, state = nnx.split(module, graph=True)
        paths, self.treedef = jax.tree_util.tree_flatten_with_path(state)
        index = {_dotted(path): position for position, (path, _) in enumerate(paths)}
        position = {id(slot.variable): index[slot.path] for slot in every if slot.path in index}
        wide = _wide(every, position, paths, lane, kept, given)
        known = [(slot, position[id(slot.variable)]) for slot in every if id(slot.variable) in position]
        self.rounded = RoundedLeaves(known, [leaf for _, leaf in paths], constants if lane.exact else None)
        with self._surroundings():
            # In NumPy: a cast in JAX would be compiled for every shape there is.
            self.leaves = [
                jnp.asarray(lane.cast(np.asarray(leaf)) if position not in wide else np.asarray(leaf))
                if is_inexact(leaf)
                else leaf
                for position, (_, leaf) in enumerate(paths)
            ]
        self.positions = [position[id(slot.variable)] for slot in self.slots]
        self.trained = sorted(set(self.positions))
        # What a call may change, if it is to be compared: everything but the parameters.
        self.buffers = [
            (replace(slot, variable=nnx.Variable(None)), position[id(slot.variable)])
            for slot in every
            if lane.exact and id(slot.variable) in position and not isinstance(slot.variable, nnx.Param)
        ]
        options = quick_options() if quick else None
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
        arguments = (self.leaves, list(call.arrays), weights, masks, call.form, skeleton, draws)
        with self._surroundings():
            try:
                with fresh_trace(self if tape else None):
                    found = self.jitted(*arguments)
            except TooFewDraws:
                # Perhaps a loop that is traced once and runs often; without jit each turn draws for itself.
                with jax.disable_jit():
                    values = jax.tree.map(jnp.asarray, arguments[:4])
                    found = self._compute(*values, *arguments[4:])
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
            state = list(leaves)
            for position, leaf in zip(self.trained, trained, strict=True):
                state[position] = leaf
            module = nnx.merge(self.graphdef, jax.tree.unflatten(self.treedef, state))
            waiting = iter(floating)
            mixed = [
                next(waiting) if is_float else a for a, is_float in zip(arrays, form.floating, strict=True)
            ]
            args, kwargs = form.build(mixed)
            with nullcontext() if masks is None else replay(masks, draws):
                value = module(*args, **kwargs) if self.call is None else self.call(module, *args, **kwargs)
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
        told = self._in_torch_layout(before, self.buffers)
        return Buffers(told, self._in_torch_layout({**before, **changed}, self.buffers) if changed else told)

    def _in_torch_layout(
        self, arrays: Mapping[int, np.ndarray], where: Iterable[tuple[Slot, int]] | None = None
    ) -> dict[str, np.ndarray]:
        """Arrays by position; those that are trained, or those of `where`."""
        chosen = zip(self.slots, self.positions, strict=True) if where is None else where
        return joined(
            pair
            for slot, position in chosen
            for pair in zip(slot.places, slot.to_torch(arrays[position]), strict=True)
        )

    @contextmanager
    def _surroundings(self) -> Generator[None]:
        exact, lifted = jax.enable_x64(self.lane.exact), lifted_flax(self.places, self.anew)
        with exact, lifted, jax.default_matmul_precision("highest"):
            yield


def paired_draws(tape: Tape, pairs: Mapping[str, str]) -> tuple[Draw, ...]:
    """What is known of each draw; its place is the innermost of torch's modules that has a counterpart."""
    theirs = set(pairs.values())
    return tuple(replace(draw, place=innermost(draw.place, theirs)) for draw in tape.draws)


def fixed_dtype(module: nnx.Module, lane: Lane) -> str:
    """A word on the submodules that compute in 16 bits of their own, which nothing lifts; empty if none."""
    for path, node in nnx.iter_modules(module, graph=True):
        dtype = None if isinstance(node, nnx.Embed) else getattr(node, "dtype", None)
        if dtype is not None and not isinstance(node, nnx.Variable) and _is_narrow(dtype):
            name = ".".join(map(str, path)) or type(node).__name__
            return f"{name} was built with dtype={np.dtype(dtype).name}, so it cannot compute in {lane.dtype}"
    return ""


def _free_dtypes(module: nnx.Module, lane: Lane) -> None:
    """`nnx.Embed` takes its table's dtype for a dtype that it was given, and would hold on to it."""
    for _, node in nnx.iter_modules(module, graph=True):
        if isinstance(node, nnx.Embed) and node.dtype == node.embedding.dtype:
            node.dtype = jnp.dtype(lane.dtype)


def has_dropout(module: nnx.Module) -> bool:
    """Whether a submodule drops anything out while training."""
    return any(
        isinstance(rate := getattr(node, name, 0.0), int | float) and rate > 0
        for _, node in nnx.iter_modules(module, graph=True)
        for name in ("rate", "dropout_rate")
    )


def depends_on_mode(module: nnx.Module) -> bool:
    """Whether `train()` and `eval()` switch anything in a submodule that could tell in its outputs."""
    module = nnx.clone(module, graph=True)
    module.eval()
    evaluating = [_settings(node) for _, node in nnx.iter_modules(module, graph=True)]
    module.train()
    training = [_settings(node) for _, node in nnx.iter_modules(module, graph=True)]
    return evaluating != training


def _settings(node: nnx.Module) -> dict[str, Any]:
    """The plain attributes of a module; none of a dropout that never drops."""
    if isinstance(node, nnx.Dropout) and type(node).__call__ is nnx.Dropout.__call__ and node.rate == 0:
        return {}
    return {name: value for name, value in vars(node).items() if isinstance(value, bool | int | float | str)}


def _is_narrow(dtype: Any) -> bool:
    try:
        return jnp.issubdtype(dtype, jnp.floating) and jnp.dtype(dtype).itemsize < 4
    except TypeError:
        return False


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


def _dotted(path: tuple[Any, ...]) -> str:
    return ".".join(str(key.key) for key in path if hasattr(key, "key"))
