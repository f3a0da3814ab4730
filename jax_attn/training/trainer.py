"""A model in training: its state, and one compiled step."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jax_attn.optim import global_norm
from jax_attn.optim.transformation import in_float64
from jax_attn.training.mesh import place_batch
from jax_attn.training.shardings import parameter_shardings
from jax_attn.training.sizing.flops import count_flops
from jax_attn.training.task import Batch, Sum, Task

# Arrays by the path of their variable: "layers.0.attention.q_proj.kernel".
Arrays = dict[str, jax.Array]


class Step(NamedTuple):
    """What a step reports, before its update: the mean loss of the batch, and the norm of its gradient."""

    loss: Any
    grad_norm: Any


class State(NamedTuple):
    """All that changes in training, as flat dictionaries of arrays: the cheapest pytree to hand to `jax.jit`.

    Attributes:
        step: how many updates there were.
        params: the parameters.
        rest: what else the model keeps: keys of dropout and how often they were used, running statistics, buffers.
        optimizer: the state of the optimizer.
        ema: the running mean of the parameters; empty where none is kept.
    """

    step: jax.Array
    params: Arrays
    rest: Arrays
    optimizer: Any
    ema: Arrays


class Trainer:
    """A Flax module and its optimizer in training.

    Args:
        model: the module. Its arrays are given away to the first step: read them from the trainer afterwards.
        optimizer: of optax, or a function that makes it of the module. What it sees is a dictionary of parameters
            by path, such as "layers.0.attention.q_proj.kernel".
        task: what the loss is.
        accumulate: in how many parts a batch is computed, one after another: what the activations need of memory is
            divided by that, and the step stays the same. (Each part draws dropout of its own.)
        max_grad_norm: what longer gradients are scaled down to.
        ema: decay of the running mean of the parameters: `mean ← d · mean + (1 - d) · parameters`, with
            `d = min(ema, (1 + step) / (10 + step))`. Where there is one, it is what is evaluated.
        dropout: whether the model is in training mode in a step.
        mesh: of `make_mesh`: over which the state and each batch are dealt out.

    Attributes:
        state: the `State`, which each step replaces.
    """

    def __init__(
        self,
        model: nnx.Module,
        optimizer: optax.GradientTransformation | Callable[[nnx.Module], optax.GradientTransformation],
        task: Task,
        *,
        accumulate: int = 1,
        max_grad_norm: float | None = None,
        ema: float | None = None,
        dropout: bool = True,
        mesh: Mesh | None = None,
    ):
        self._task, self._accumulate, self._max_grad_norm, self._ema = task, accumulate, max_grad_norm, ema
        self._optimizer = (
            optimizer if isinstance(optimizer, optax.GradientTransformation) else optimizer(model)
        )
        model.train() if dropout else model.eval()
        self._graphdef, params, rest = nnx.split(model, nnx.Param, ...)
        model.eval()
        self._eval_graphdef = nnx.graphdef(model)
        self._params, self._rest = _Names(params), _Names(rest)
        self._mesh, self._x64 = mesh, in_float64()
        # The state is donated: each new one takes the memory of the old one, and lies as it did.
        jit: Any = partial(jax.jit, self.update, donate_argnums=0)
        with self._context():
            if mesh is None:
                self.state = self._begin(self._params.arrays(params), self._rest.arrays(rest))
                self._compiled_update = jit()
            else:
                by_name = _Names.found(parameter_shardings(model, mesh))
                self.state, shardings = self._dealt_out(params, rest, by_name)
                self._compiled_update = jit(out_shardings=(shardings, None))
        self._flops: dict[Any, int] = {}
        self._compiled_evaluate = jax.jit(self._evaluate, static_argnums=0)

    @property
    def model(self) -> Any:
        """The module as it stands, in evaluation mode; of the running mean, where one is kept."""
        return self._merged(self._eval_graphdef, self.state.ema or self.state.params, self.state.rest)

    def gathered(self) -> Any:
        """`model`, whole in every process, to be saved; all processes have to ask for it."""
        if jax.process_count() == 1:
            return self.model
        params = self.state.ema or self.state.params
        with self._context():
            whole = jax.jit(lambda x: x, out_shardings=NamedSharding(self._mesh, PartitionSpec()))  # ty: ignore
            arrays = [
                {k: x.addressable_data(0) for k, x in whole(each).items()}
                for each in (params, self.state.rest)
            ]
        return self._merged(self._eval_graphdef, *arrays)

    def step(self, batch: Batch) -> Step:
        """Update the state; return at once, with arrays that the device may still be computing."""
        with self._context():
            self.state, report = self._compiled_update(self.state, self.place(batch))
        return report

    def evaluate(self, function: Callable[[Any, Batch], Any], batch: Batch) -> Any:
        """`function(model, batch)`, compiled, of `self.model`."""
        arrays = self.state.ema or self.state.params, self.state.rest
        with self._context():
            return self._compiled_evaluate(function, *arrays, self.place(batch))

    def figures(self, batch: Batch) -> dict[str, Sum]:
        """The loss and the metrics of a held-out batch."""
        return self.evaluate(self._task.figures, batch)

    def flops(self, batch: Batch) -> int:
        """FLOPs of a step, on all devices together, without what is computed again to save memory."""
        shapes = {name: jax.ShapeDtypeStruct(value.shape, value.dtype) for name, value in batch.items()}
        key = tuple((name, value.shape, value.dtype) for name, value in shapes.items())
        if key not in self._flops:
            with self._context():
                self._flops[key] = count_flops(self.update, self.state, shapes).model
        return self._flops[key]

    def place(self, batch: Batch) -> dict[str, Any]:
        """The batch as a step takes it: on a mesh, where its rows belong."""
        return dict(batch) if self._mesh is None else place_batch(dict(batch), self._mesh)

    def update(self, state: State, batch: Batch) -> tuple[State, Step]:
        """The step as a pure function, to be compiled: the new state, and what is reported."""
        total, weight, gradients, rest = self._gradients(state.params, state.rest, batch)
        norm = global_norm(gradients) / weight
        factor = 1.0 / weight
        if self._max_grad_norm is not None:
            factor *= jnp.minimum(self._max_grad_norm / (norm + 1e-6), 1.0)  # as torch clips
        gradients = jax.tree.map(lambda g: g * factor.astype(g.dtype), gradients)
        updates, optimizer = self._optimizer.update(gradients, state.optimizer, state.params)
        params: Any = optax.apply_updates(state.params, updates)
        step = state.step + 1
        return State(step, params, rest, optimizer, self._mean(state.ema, params, step)), Step(
            total / weight, norm
        )

    def _begin(self, params: Arrays, rest: Arrays) -> State:
        optimizer = self._optimizer.init(params)
        ema = {} if self._ema is None else jax.tree.map(jnp.copy, params)
        return State(jnp.zeros([], jnp.int32), params, rest, optimizer, ema)

    def _dealt_out(self, params: Any, rest: Any, by_name: dict[str, NamedSharding]) -> tuple[State, State]:
        """The state at the beginning, and how it lies on the mesh: as the parameter does that a leaf belongs to."""
        arrays = self._params.arrays(params), self._rest.arrays(rest)
        whole = NamedSharding(self._mesh, PartitionSpec())  # ty: ignore

        def sharding(path: Any, leaf: Any) -> NamedSharding:
            name = getattr(path[-1], "key", None)
            same = name in by_name and leaf.shape == (arrays[0] | arrays[1])[name].shape
            return by_name[name] if same else whole

        shardings = jax.tree_util.tree_map_with_path(sharding, jax.eval_shape(self._begin, *arrays))
        params, rest = jax.device_put(arrays, (shardings.params, shardings.rest))
        # What follows the parameters is made where it belongs, never whole on one device.
        begin = jax.jit(self._begin, out_shardings=shardings, donate_argnums=(0, 1))
        return begin(params, rest), shardings

    def _context(self) -> ExitStack:
        """The dtypes and the mesh that the trainer was made with."""
        stack = ExitStack()
        if self._x64:
            stack.enter_context(jax.enable_x64(True))
        if self._mesh is not None:
            stack.enter_context(jax.set_mesh(self._mesh))
        return stack

    def _gradients(self, params: Arrays, rest: Arrays, batch: Batch) -> tuple[Any, Any, Any, Arrays]:
        """The summed loss, the weight, the gradients of the sum, and what the model keeps besides."""

        def summed(params: Arrays, rest: Arrays, batch: Batch) -> tuple[Any, Any]:
            model = self._merged(self._graphdef, params, rest)
            total, weight = self._task.loss(model, batch)
            weight = jnp.asarray(weight, jnp.result_type(total))
            return total, (weight, self._rest.of(nnx.state(model)))

        one = jax.value_and_grad(summed, has_aux=True)
        if self._accumulate == 1:
            (total, (weight, rest)), gradients = one(params, rest, batch)
            return total, weight, gradients, rest

        def add(carry: Any, part: Batch) -> tuple[Any, None]:
            sums, rest = carry
            (total, (weight, rest)), gradients = one(params, rest, part)
            return (jax.tree.map(jnp.add, sums, (total, weight, gradients)), rest), None

        batches = jax.tree.map(partial(in_parts, self._accumulate), dict(batch))
        first = jax.tree.map(lambda x: x[0], batches)
        shapes = jax.eval_shape(one, params, rest, first)
        (total, (weight, _)), gradients = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        (sums, rest), _ = jax.lax.scan(add, ((total, weight, gradients), rest), batches)
        return *sums, rest

    def _mean(self, ema: Arrays, params: Arrays, step: jax.Array) -> Arrays:
        if self._ema is None:
            return ema
        decay = jnp.minimum(self._ema, (1.0 + step) / (10.0 + step))
        return jax.tree.map(
            lambda mean, new: mean + (1 - decay).astype(mean.dtype) * (new - mean), ema, params
        )

    def _evaluate(self, function: Any, params: Arrays, rest: Arrays, batch: Batch) -> Any:
        return function(self._merged(self._eval_graphdef, params, rest), batch)

    def _merged(self, graphdef: Any, params: Arrays, rest: Arrays) -> Any:
        return nnx.merge(graphdef, self._params.state(params), self._rest.state(rest))


def in_parts(parts: int, rows: Any) -> Any:
    """`(b, ...) -> (parts, b / parts, ...)`: a part takes every `parts`-th row, so none moves between devices."""
    return rows.reshape(rows.shape[0] // parts, parts, *rows.shape[1:]).swapaxes(0, 1)


class _Names:
    """The paths of a state's leaves, which stand for it as keys of a flat dictionary."""

    def __init__(self, state: Any):
        self._treedef = jax.tree.structure(state)
        self._names = list(self.found(state))

    def arrays(self, state: Any) -> Arrays:
        """The dictionary."""
        return dict(zip(self._names, jax.tree.leaves(state), strict=True))

    def state(self, arrays: Mapping[str, Any]) -> Any:
        """The state of a dictionary."""
        return jax.tree.unflatten(self._treedef, [arrays[name] for name in self._names])

    def of(self, state: Any) -> Arrays:
        """The dictionary of a state that may hold more."""
        found = self.found(state)
        return {name: found[name] for name in self._names}

    @staticmethod
    def found(state: Any) -> dict[str, Any]:
        """Every leaf of a state, by path."""
        return {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(state)}


def _name(path: Any) -> str:
    return ".".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path if _is_step(key))


def _is_step(key: Any) -> bool:
    """Whether a key leads to a variable; the last of a path leads from the variable to its array."""
    return not isinstance(key, jax.tree_util.GetAttrKey)
