"""The trainers that a task and options ask for."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import lru_cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from jax_attn.models import Part
from jax_attn.optim.transformation import Schedule
from jax_attn.optim.warmup import warmup_schedule
from jax_attn.training.mesh import create_sharded, make_mesh
from jax_attn.training.options import TrainingOptions
from jax_attn.training.task import Task
from jax_attn.training.torch_trainer import TorchTrainer
from jax_attn.training.trainer import Trainer
from jax_attn.weights import state_dict
from jax_attn.weights.rules import slots


def precision(options: TrainingOptions) -> ExitStack:
    """A context in which arrays may have the dtype asked for, and frameworks are compared without rounding."""
    stack = ExitStack()
    if options.dtype == "float64":
        stack.enter_context(jax.enable_x64(True))
    if options.framework == "both":  # left alone, accelerators multiply float32 matrices in lower precision
        stack.enter_context(jax.default_matmul_precision("highest"))
    return stack


def make_trainers(task: Task, options: TrainingOptions) -> dict[str, Any]:
    """A trainer for each framework; where there are two, they start from the same weights.

    Raises:
        ValueError: a mesh that the devices do not make up, or a torch side that is not there.
    """
    if task.optimizer is not None and options.framework != "jax":
        raise ValueError(
            f"--framework {options.framework} has no counterpart of the optimizer that the task brings"
        )
    mesh, both = mesh_of(options), options.framework == "both"
    model = build_model(task, options, mesh)
    how: dict[str, Any] = {
        "accumulate": options.accumulate,
        "max_grad_norm": options.max_grad_norm,
        "ema": options.ema,
        "dropout": not both,
    }
    trainers: dict[str, Any] = {}
    if options.framework in ("torch", "both"):  # first: the other gives the arrays of the model away
        decay: dict[str, Any] = {"weight_decay": options.weight_decay, "betas": options.betas}
        autocast = options.dtype == "bfloat16"
        twin = build_twin(task, options, model)
        trainers["torch"] = TorchTrainer(
            twin, looked_up(schedule_of(options)), task, **decay, **how, autocast=autocast
        )
    if options.framework in ("jax", "both"):
        own = task.optimizer and task.optimizer(schedule_of(options))
        made = Trainer(model, own or partial(make_optimizer, options), task, mesh=mesh, **how)
        trainers = {"jax": made, **trainers}
    return trainers


def mesh_of(options: TrainingOptions) -> Mesh | None:
    """The mesh of the options; None for one device."""
    if options.framework != "jax" and options.mesh is None:
        return None
    mesh = make_mesh(options.mesh)
    return mesh if mesh.size > 1 else None


def build_model(task: Task, options: TrainingOptions, mesh: Mesh | None = None) -> nnx.Module:
    """The module of a task; float32 weights for bfloat16."""
    given: Any = task.model
    if isinstance(given, nnx.Module):
        return given
    build = given
    if isinstance(given, Part):
        dtype = jnp.dtype(options.dtype)
        dtypes = {"dtype": dtype, "param_dtype": jnp.promote_types(dtype, jnp.float32)}

        def build() -> Any:
            return given.build("jax_attn", rngs=nnx.Rngs(options.seed), **dtypes)

    return build() if mesh is None else create_sharded(build, mesh)


def build_twin(task: Task, options: TrainingOptions, model: nnx.Module) -> Any:
    """The torch twin, with the weights of the module."""
    import torch

    torch.manual_seed(options.seed)
    if task.twin is not None:
        twin = task.twin()
    elif isinstance(task.model, Part):
        twin = task.model.build("torch_ref")
    else:
        raise ValueError(f"--framework {options.framework} needs a task whose model has a torch twin")
    twin = twin.double() if options.dtype == "float64" else twin
    twin.load_state_dict(state_dict(model))
    return twin


def make_optimizer(options: TrainingOptions, model: nnx.Module) -> optax.GradientTransformation:
    """AdamW; what is a vector in each layer (biases, scales of norms) is not decayed."""
    vectors = {slot.path for slot in slots(model) if len(slot.torch_shape) < 2}
    b1, b2 = options.betas

    def decayed(params: Any) -> dict[str, bool]:
        return {name: name not in vectors for name in params}

    return optax.adamw(
        schedule_of(options),
        b1=b1,
        b2=b2,
        weight_decay=options.weight_decay,
        mask=decayed,
    )


def schedule_of(options: TrainingOptions) -> Schedule:
    """The learning rate by step, from 0 on."""
    return warmup_schedule(
        options.schedule, options.learning_rate, options.steps, round(options.warmup * options.steps)
    )


def looked_up(schedule: Schedule) -> Callable[[int], float]:
    """A schedule for torch: the rates of a thousand steps at once, which costs as much as that of one."""

    @lru_cache(maxsize=2)
    def rates(chunk: int) -> np.ndarray:
        return np.asarray(schedule(jnp.arange(1000 * chunk, 1000 * (chunk + 1))))

    return lambda step: float(rates(step // 1000)[step % 1000])
