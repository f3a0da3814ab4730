"""Trains the Flax module: a copy, in one dtype, step by step."""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jax_attn.parity.lanes import Lane, is_floating
from jax_attn.parity.runners.calls import Call, Form
from jax_attn.parity.runners.dropout import Draw, Tape
from jax_attn.parity.runners.dropout_flax import replay, replayed
from jax_attn.parity.runners.flax_runner import paired_draws, prepared
from jax_attn.parity.runners.lifting_flax import lifted_flax
from jax_attn.parity.runners.places import Places
from jax_attn.parity.runners.quick import quick_options
from jax_attn.parity.runners.rounded_leaves import RoundedLeaves
from jax_attn.parity.runners.torch_constants import TorchConstants
from jax_attn.parity.training.optimizer_state import learning_rate, moments
from jax_attn.parity.training.torch_runner import BadLoss, TorchStep
from jax_attn.parity.training.weights import TrainedWeights
from jax_attn.weights.rules import Names


@dataclass(frozen=True)
class FlaxRecipe:
    """What Flax trains, and how. See `compare_training`; the module has torch's weights.

    `pairs` are torch's paths of the submodules that have a counterpart, for the dropout masks; `constants` those
    of torch, for what Flax keeps of them in float32.
    """

    module: nnx.Module
    loss: Callable[..., Any]
    optimizer: optax.GradientTransformation
    clip: optax.GradientTransformation | None = None
    training: bool = True
    wrt: Any = nnx.Param
    names: Names = ()
    quick: bool = True
    pairs: Mapping[str, str] = field(default_factory=dict)
    constants: TorchConstants | None = None


@dataclass(frozen=True)
class FlaxStep:
    """One step, by torch key and in torch's layout; the fields are those of `TorchStep`.

    `clipped` is None where clipping is a part of the chain, and `rate` where the state does not hold it.
    `rest` is what is not trained, after the step: running statistics.
    """

    loss: float
    gradients: Mapping[str, np.ndarray]
    clipped: Mapping[str, np.ndarray] | None
    moments: Mapping[str, Mapping[str, np.ndarray]]
    rate: float | None
    updates: Mapping[str, np.ndarray]
    rest: Mapping[str, np.ndarray]


@dataclass
class _Run:
    """Where a run has come to: weights, the module's other state, the states of clipping and optimizer."""

    leaves: list[Any]
    rest: Any
    clip: Any
    optimizer: Any


class FlaxTrainer:
    """A copy of the module in training, twice: left to itself, and led by torch.

    Args:
        recipe: what to train, and how.
        lane: its dtype.

    Attributes:
        places: where float32 in the loss was lifted; None in a lane where it is not.
    """

    def __init__(self, recipe: FlaxRecipe, lane: Lane):
        self.lane = lane
        self.places = Places() if lane.exact else None
        self.loss = recipe.loss
        self.pairs = recipe.pairs
        module = prepared(recipe.module, lane, recipe.training, self.pairs)
        self.weights = TrainedWeights(module, recipe.wrt, recipe.names)
        constants = recipe.constants if lane.exact else None
        self.rounded = RoundedLeaves(self.weights.beside, jax.tree.leaves(self.weights.rest), constants)
        self.clip = optax.with_extra_args_support(recipe.clip or optax.identity())
        self.clips = recipe.clip is not None
        self.optimizer = optax.with_extra_args_support(recipe.optimizer)
        options = quick_options() if recipe.quick else None
        self._differentiate = jax.jit(self._gradients, static_argnums=(4, 5), compiler_options=options)
        self._clip = jax.jit(self._clipped, compiler_options=options)
        self._apply = jax.jit(self._applied, compiler_options=options)

    def start(self, weights: Mapping[str, np.ndarray]) -> None:
        """Begin, or begin anew, with these weights by torch key."""
        with self._surroundings():
            leaves = self._as_leaves(weights)
            rest = self.weights.rest_at(jax.tree.map(self._cast, self.weights.rest), weights)
            tree = self.weights.tree(leaves)
            states = self.clip.init(tree), self.optimizer.init(tree)
        self._free, self._led = _Run(leaves, rest, *states), _Run(leaves, rest, *states)

    def step(
        self,
        call: Call,
        tape: Tape | None = None,
        leader: TorchStep | None = None,
        *,
        brief: bool = False,
    ) -> FlaxStep:
        """Train on a batch.

        Args:
            call: the batch.
            tape: the dropout masks that torch drew.
            leader: torch's step. The loss and the gradients are then those at torch's weights; clipping gets
                torch's gradients, and the optimizer torch's clipped ones: what differs, differs by itself.
            brief: return the loss and the updates alone.

        Raises:
            BadLoss: the loss is no scalar.
            DropoutMismatch: dropout is called otherwise than in torch.
        """
        run = self._free if leader is None else self._led
        masks, draws = (None, ()) if tape is None else (tape.masks, paired_draws(tape, self.pairs))
        with self._surroundings():
            arrays = [self._cast(array) for array in call.arrays]
            if leader is not None:
                run.leaves = self._as_leaves(leader.before)
                run.rest = self.weights.rest_at(run.rest, leader.before)
            run.rest = self._lifted(run.rest, call)
            loss, gradients, run.rest = self._differentiated(run, arrays, masks, call.form, draws)
            fed = gradients if leader is None else self._overlaid(gradients, leader.gradients)
            value = loss if leader is None else jnp.asarray(leader.loss, loss.dtype)
            clipped = None
            if self.clips:
                clipped, run.clip = self._clip(fed, run.clip, run.leaves, value)
                fed = clipped if leader is None else self._overlaid(clipped, leader.clipped)
            before = run.leaves
            run.leaves, run.optimizer = self._apply(fed, run.optimizer, before, value)
        by_key = self._updates(before, run.leaves)
        if brief:
            return FlaxStep(float(loss), {}, None, {}, None, by_key, {})
        return FlaxStep(
            float(loss),
            self.weights.to_torch(gradients),
            None if clipped is None else self.weights.to_torch(clipped),
            moments(run.optimizer, self.weights),
            learning_rate(run.optimizer),
            by_key,
            self.weights.rest_to_torch(run.rest),
        )

    def step_with(
        self, before: Mapping[str, np.ndarray], gradients: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """The updates that clipping and the optimizer, led to these weights, make of these gradients."""
        run = self._led
        with self._surroundings():
            leaves, loss = self._as_leaves(before), jnp.asarray(0.0)
            fed = self._overlaid([jnp.zeros_like(leaf) for leaf in leaves], gradients)
            if self.clips:
                fed, run.clip = self._clip(fed, run.clip, leaves, loss)
            after, run.optimizer = self._apply(fed, run.optimizer, leaves, loss)
        return self._updates(leaves, after)

    def _updates(self, before: list[Any], after: list[Any]) -> dict[str, np.ndarray]:
        pairs = zip(before, after, strict=True)
        return self.weights.to_torch([np.asarray(b) - np.asarray(a) for a, b in pairs])

    def _lifted(self, rest: Any, call: Call) -> Any:
        """What is kept in float32 with what rounding took from it, where torch computes it for the batch."""
        leaves, treedef = jax.tree.flatten(rest)
        self.rounded.lift(leaves, call)
        return jax.tree.unflatten(treedef, leaves)

    def _differentiated(
        self, run: _Run, arrays: list[Any], masks: Any, form: Form, draws: tuple[Draw, ...]
    ) -> Any:
        arguments = run.leaves, run.rest, arrays, masks
        owner = None if masks is None else self
        with lifted_flax(self.places, anew=True):
            return replayed(self._differentiate, self._gradients, arguments, (form, draws), owner)

    def _gradients(
        self, leaves: Any, rest: Any, arrays: Any, masks: Any, form: Form, draws: tuple[Draw, ...]
    ) -> Any:
        def forward(leaves: Any) -> Any:
            here = jax.tree.map(lambda leaf: leaf, rest)  # variables of this trace, which may be changed
            module = nnx.merge(self.weights.graphdef, self.weights.state(leaves), here)
            args, kwargs = form.build(arrays)
            with nullcontext() if masks is None else replay(masks, draws):
                loss = self.loss(module, *args, **kwargs)
            if jnp.shape(loss) != () or not is_floating(loss):
                raise BadLoss(f"flax's loss must be a floating scalar, got {_described(loss)}")
            return loss, nnx.split(module, self.weights.wrt, ..., graph=True)[2]

        (loss, rest), gradients = jax.value_and_grad(forward, has_aux=True)(leaves)
        return loss, gradients, rest

    def _clipped(self, gradients: Any, state: Any, leaves: Any, loss: Any) -> Any:
        return self._transformed(self.clip, gradients, state, leaves, loss)

    def _applied(self, gradients: Any, state: Any, leaves: Any, loss: Any) -> Any:
        updates, state = self._transformed(self.optimizer, gradients, state, leaves, loss)
        return optax.apply_updates(leaves, updates), state

    def _transformed(self, tx: Any, gradients: Any, state: Any, leaves: Any, loss: Any) -> Any:
        tree = self.weights.tree
        updates, state = tx.update(tree(gradients), state, tree(leaves), value=loss, grad=tree(gradients))
        return jax.tree.leaves(updates), state

    def _overlaid(self, own: Any, theirs: Mapping[str, np.ndarray]) -> list[jax.Array]:
        """Torch's tensors, and our own where torch has none."""
        return self._as_leaves({**self.weights.to_torch(own), **theirs})

    def _as_leaves(self, by_key: Mapping[str, np.ndarray]) -> list[jax.Array]:
        return [jnp.array(self.lane.cast(leaf), copy=True) for leaf in self.weights.to_flax(by_key)]

    def _cast(self, array: Any) -> Any:
        return jnp.asarray(self.lane.cast(np.asarray(array))) if is_floating(array) else array

    @contextmanager
    def _surroundings(self) -> Generator[None]:
        with jax.enable_x64(self.lane.exact), jax.default_matmul_precision("highest"):
            yield


def _described(value: Any) -> str:
    if not hasattr(value, "shape"):
        return type(value).__name__
    return f"an array of shape {tuple(value.shape)} and dtype {value.dtype}"
