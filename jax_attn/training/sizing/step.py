"""A training step that is described and not built: no array of it exists, and it can be compiled all the same."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jax_attn.functional.logical_axes import mesh_axes_of
from jax_attn.models.part import Part
from jax_attn.nn.layers.stack import Stack
from jax_attn.training.shardings import parameter_shardings
from jax_attn.training.task import Task
from jax_attn.training.trainer import State, Trainer

NEEDED = ("model", "optimizer", "inputs", "loss")
OPTIONS = ("accumulate", "max_grad_norm", "ema")


@dataclass(frozen=True)
class Description:
    """What a training step is made of.

    Attributes:
        model: an NNX module, a `Part`, or a function without arguments that returns a module; a function is traced,
            so that nothing is drawn.
        optimizer: of optax, or a function that makes it of the module.
        inputs: a batch, a tree of arrays or of `jax.ShapeDtypeStruct` with an axis of rows first; or a function of
            the number of rows that returns one.
        loss: `loss(model, batch)`: the loss, or a tuple of a sum and how many things it sums.
        options: `accumulate`, `max_grad_norm`, `ema` of `Trainer`.
    """

    model: Any
    optimizer: Any
    inputs: Any
    loss: Callable[[Any, Any], Any]
    options: Mapping[str, Any]

    @classmethod
    def of(cls, value: Any) -> "Description":
        """Read what a user's function returns: a dict or a NamedTuple.

        Raises:
            ValueError: something is missing, or has a name that is not known.
        """
        if hasattr(value, "_asdict"):
            value = value._asdict()
        if not isinstance(value, Mapping):
            raise ValueError(f"expected a dict with {', '.join(NEEDED)}, got {type(value).__name__}")
        if missing := [name for name in NEEDED if value.get(name) is None]:
            raise ValueError(f"it returned no {' and no '.join(map(repr, missing))}")
        if unknown := [str(name) for name in value if name not in NEEDED + OPTIONS]:
            raise ValueError(f"{unknown[0]!r} is none of {', '.join(NEEDED + OPTIONS)}")
        if not callable(value["loss"]):
            raise ValueError(f"loss must be a function of (model, batch), got {type(value['loss']).__name__}")
        if not callable(value["model"]) and not isinstance(value["model"], nnx.Module | Part):
            kind = type(value["model"]).__name__
            raise ValueError(f"model must be an nnx.Module, or a function that returns one, got {kind}")
        given = {name: value[name] for name in OPTIONS if value.get(name) is not None}
        return cls(*(value[name] for name in NEEDED), given)


@dataclass(frozen=True)
class AbstractStep:
    """A step and the shapes of all that it takes.

    Attributes:
        update: `update(state, batch)` returns the new state and what is reported.
        state: shapes, dtypes and shardings of parameters, optimizer and the rest.
        batch: the same of a batch.
        mesh: over which they are dealt out.
        rows, tokens: of a batch; tokens are those of the longest sequence of ids, or rows where there are none.
    """

    update: Callable[[State, Any], Any]
    state: State
    batch: Any
    mesh: Mesh
    rows: int
    tokens: int

    @property
    def shardings(self) -> State:
        """How the state lies, before the step and after it."""
        return jax.tree.map(lambda x: x.sharding, self.state)

    @property
    def parameters(self) -> int:
        """How many there are."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.state.params))


def abstract_step(
    description: Description, mesh: Mesh, rows: int | None = None, dtype: Any = None, remat: bool = False
) -> AbstractStep:
    """Return the step that `Trainer` would run, without its arrays.

    Args:
        description: what it is made of.
        mesh: of `make_mesh`.
        rows: of a batch; None is those of `inputs`, or, where that is a function, one for each of its parts.
        dtype: what modules compute in that have a `dtype`; None is as they are.
        remat: whether each layer of a `Stack` is computed again in the backward pass.

    Raises:
        ValueError: the batch has no rows, or there is no `Stack` to compute again.
    """
    batch = batch_of(description.inputs, rows, mesh)
    made: dict[str, Any] = {}

    def build(state: Any) -> State:
        model = _built(description.model, state, dtype)
        adapt(model, dtype, remat)
        task = Task(model=model, loss=lambda model, batch: _summed(description.loss(model, batch)))
        made["trainer"] = Trainer(model, description.optimizer, task, **description.options)
        made["names"] = parameter_shardings(nnx.eval_shape(lambda: model), mesh)
        return made["trainer"].state

    is_built = isinstance(description.model, nnx.Module)
    with nnx.use_eager_sharding(False):
        state = jax.eval_shape(build, nnx.state(description.model) if is_built else None)
    trainer = made["trainer"]
    del trainer.state
    leaves = jax.tree_util.tree_leaves_with_path(batch)
    sizes = [leaf.shape for _, leaf in leaves if leaf.ndim]
    if not sizes:
        raise ValueError("inputs must hold arrays with an axis of rows")
    ids = [math.prod(x.shape[:2]) for _, x in leaves if x.ndim >= 2 and jnp.issubdtype(x.dtype, jnp.integer)]
    return AbstractStep(
        trainer.update,
        _laid_out(state, made["names"], mesh),
        batch,
        mesh,
        sizes[0][0],
        max(ids, default=sizes[0][0]),
    )


def adapt(model: nnx.Module, dtype: Any = None, remat: bool = False) -> None:
    """Let the modules of a model compute in a dtype, and its stacks compute their layers again.

    Raises:
        ValueError: `remat`, and the model has no `Stack`.
    """
    modules: list[Any] = [node for _, node in nnx.iter_modules(model)]
    if dtype is not None:
        for node in modules:
            if "dtype" in vars(node):
                node.dtype = jnp.dtype(dtype)
    if remat:
        stacks = [node for node in modules if isinstance(node, Stack)]
        if not stacks:
            raise ValueError(
                "remat needs a function that takes remat=, or a model with a jax_attn.nn.Stack; this has neither"
            )
        for node in stacks:
            node.remat = True


def batch_of(inputs: Any, rows: int | None, mesh: Mesh) -> Any:
    """Return shapes and shardings of a batch.

    Raises:
        ValueError: an array of it has no axis of rows.
    """
    if callable(inputs):
        count = rows or math.prod(mesh.shape[axis] for axis in ("data", "fsdp"))
        needs = [p for p in inspect.signature(inputs).parameters.values() if p.default is p.empty]
        given = jax.eval_shape(lambda: inputs(count)) if needs or rows is not None else jax.eval_shape(inputs)
    else:
        given = inputs

    def shaped(x: Any) -> jax.ShapeDtypeStruct:
        x = x if hasattr(x, "shape") and hasattr(x, "dtype") else jnp.asarray(x)
        shape = tuple(x.shape)
        if rows is not None and shape and not callable(inputs):
            shape = (rows, *shape[1:])
        axes = mesh_axes_of("batch", shape[0], mesh.shape) if shape else ()
        spec = PartitionSpec(axes) if axes else PartitionSpec()
        return jax.ShapeDtypeStruct(shape, x.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(shaped, given)


def _built(model: Any, state: Any, dtype: Any) -> nnx.Module:
    if isinstance(model, Part):
        return model.build("jax_attn", rngs=nnx.Rngs(0), **({} if dtype is None else {"dtype": dtype}))
    if isinstance(model, nnx.Module):
        return nnx.merge(nnx.graphdef(model), state)
    built = model()
    if isinstance(built, Part):
        return _built(built, None, dtype)
    if not isinstance(built, nnx.Module):
        raise ValueError(f"model() must return an nnx.Module, it returned {type(built).__name__}")
    return built


def _summed(loss: Any) -> Any:
    return loss if isinstance(loss, tuple) else (loss, jnp.ones([], jnp.float32))


def _laid_out(state: State, shardings: Any, mesh: Mesh) -> State:
    """The state as it lies on a mesh: what follows a parameter as this does."""
    by_name = {".".join(map(str, path)): _value(leaf) for path, leaf in nnx.to_flat_state(shardings)}
    shapes = {name: leaf.shape for name, leaf in (state.params | state.rest).items()}
    whole = NamedSharding(mesh, PartitionSpec())

    def placed(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        name = getattr(path[-1], "key", None) if path else None
        same = name in by_name and shapes.get(name) == leaf.shape
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=by_name[name] if same else whole)

    return jax.tree_util.tree_map_with_path(placed, state)


def _value(leaf: Any) -> Any:
    return leaf.get_value() if isinstance(leaf, nnx.Variable) else leaf
