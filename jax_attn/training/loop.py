"""The loop: from a task, batches and options to a trained model."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jax_attn.models import Part
from jax_attn.training.options import TrainingOptions
from jax_attn.training.task import Batch, Task
from jax_attn.training.torch_trainer import TorchTrainer
from jax_attn.training.trainer import Trainer
from jax_attn.weights import state_dict


class Batches(Protocol):
    """The global batch of each step, by its number: always the same one, wherever and whenever it is asked for."""

    def __getitem__(self, step: int) -> Batch:
        """Batch number `step`, from 0 on and without end."""
        ...


class Result(NamedTuple):
    """By framework: the trainers, and each step's loss."""

    trainers: dict[str, Any]
    losses: dict[str, list[float]]


def fit(task: Task, batches: Batches, options: TrainingOptions, held_out: Sequence[Batch] = ()) -> Result:
    """Train, and print how the loss falls."""
    trainers = make_trainers(task, options)
    losses: dict[str, list[Any]] = {name: [] for name in trainers}
    for step in range(options.steps):
        batch = batches[step]
        for name, trainer in trainers.items():
            losses[name].append(trainer.step(batch))
        if step % max(1, options.steps // 20) == 0:
            print(step, {name: float(history[-1]) for name, history in losses.items()}, flush=True)
    return Result(trainers, {name: [float(loss) for loss in history] for name, history in losses.items()})


def make_trainers(task: Task, options: TrainingOptions) -> dict[str, Any]:
    """A trainer for each framework; where there are two, they start from the same weights."""
    model = task.model
    if isinstance(model, Part):
        model = model.build(
            "jax_attn", rngs=nnx.Rngs(options.seed), dtype=jnp.dtype(options.dtype), param_dtype=jnp.float32
        )
    trainers: dict[str, Any] = {}
    if options.framework in ("torch", "both"):
        twin = task.twin() if task.twin else task.model.build("torch_ref")  # ty: ignore
        twin.load_state_dict(state_dict(model))
        trainers["torch"] = TorchTrainer(twin, lambda step: rate(options, step), options.weight_decay, task)
    if options.framework in ("jax", "both"):
        optimizer = optax.adamw(lambda step: rate(options, step), weight_decay=options.weight_decay)
        trainers["jax"] = Trainer(model, optimizer, task)
    return trainers


def rate(options: TrainingOptions, step: Any) -> jax.Array:
    """Linear warm-up, then linear decay; `step` counts from 0."""
    warmup = round(options.warmup * options.steps)
    climbing = (step + 1) / max(warmup, 1)
    falling = (options.steps - step) / max(options.steps - warmup, 1)
    return options.learning_rate * jnp.minimum(1.0, jnp.minimum(climbing, falling))
