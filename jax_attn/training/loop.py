"""The loop: from a task, batches and options to a trained model."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
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
from jax_attn.weights.rules import slots


class Batches(Protocol):
    """The global batch of each step, by its number: always the same one, wherever and whenever it is asked for."""

    def __getitem__(self, step: int) -> Batch:
        """Batch number `step`, from 0 on and without end."""
        ...


class Result(NamedTuple):
    """What came of a training.

    Attributes:
        trainers: by framework.
        losses: by framework, the loss of each step.
        figures: by framework, the loss and the metrics of the last evaluation on held-out batches.
    """

    trainers: dict[str, Any]
    losses: dict[str, list[float]]
    figures: dict[str, dict[str, float]]


def fit(task: Task, batches: Batches, options: TrainingOptions, held_out: Sequence[Batch] = ()) -> Result:
    """Train, and print how the loss falls."""
    with precision(options):
        trainers = make_trainers(task, options)
        losses: dict[str, list[Any]] = {name: [] for name in trainers}
        for step in range(options.steps):
            batch = batches[step]
            for name, trainer in trainers.items():
                losses[name].append(trainer.step(batch).loss)
            if step % max(1, options.steps // 20) == 0:
                print(step, {name: float(history[-1]) for name, history in losses.items()}, flush=True)
        figures = {name: evaluate(trainer, held_out) for name, trainer in trainers.items()}
        given_back(task, trainers)
    return Result(
        trainers,
        {name: [float(loss) for loss in history] for name, history in losses.items()},
        figures,
    )


def evaluate(trainer: Any, held_out: Sequence[Batch]) -> dict[str, float]:
    """The figures of all held-out batches together."""
    found = [trainer.figures(batch) for batch in held_out]
    sums = {
        name: [sum(float(each[name][k]) for each in found) for k in (0, 1)]
        for name in (found[0] if found else ())
    }
    return {name: total / weight if weight else float("nan") for name, (total, weight) in sums.items()}


def precision(options: TrainingOptions) -> ExitStack:
    """A context in which arrays may have the dtype asked for, and frameworks are compared without rounding."""
    stack = ExitStack()
    if options.dtype == "float64":
        stack.enter_context(jax.enable_x64(True))
    if options.framework == "both":  # left alone, accelerators multiply float32 matrices in lower precision
        stack.enter_context(jax.default_matmul_precision("highest"))
    return stack


def make_trainers(task: Task, options: TrainingOptions) -> dict[str, Any]:
    """A trainer for each framework; where there are two, they start from the same weights."""
    model = task.model
    if isinstance(model, Part):
        dtype = jnp.dtype(options.dtype)
        param_dtype = jnp.promote_types(dtype, jnp.float32)
        model = model.build("jax_attn", rngs=nnx.Rngs(options.seed), dtype=dtype, param_dtype=param_dtype)
    both = options.framework == "both"
    how: dict[str, Any] = {
        "accumulate": options.accumulate,
        "max_grad_norm": options.max_grad_norm,
        "ema": options.ema,
        "dropout": not both,
    }
    trainers: dict[str, Any] = {}
    if options.framework in ("torch", "both"):
        import torch

        torch.manual_seed(options.seed)
        twin = task.twin() if task.twin else task.model.build("torch_ref")  # ty: ignore
        twin = twin.double() if options.dtype == "float64" else twin
        twin.load_state_dict(state_dict(model))
        decay: dict[str, Any] = {"weight_decay": options.weight_decay, "betas": options.betas}
        autocast = options.dtype == "bfloat16"
        trainers["torch"] = TorchTrainer(
            twin, partial(rate, options), task, **decay, **how, autocast=autocast
        )
    if options.framework in ("jax", "both"):
        trainers["jax"] = Trainer(model, partial(make_optimizer, options), task, **how)
    return trainers


def make_optimizer(options: TrainingOptions, model: nnx.Module) -> optax.GradientTransformation:
    """AdamW; what is a vector in each layer (biases, scales of norms) is not decayed."""
    vectors = {slot.path for slot in slots(model) if len(slot.torch_shape) < 2}
    b1, b2 = options.betas
    return optax.adamw(
        partial(rate, options),
        b1=b1,
        b2=b2,
        weight_decay=options.weight_decay,
        mask=lambda params: {name: name not in vectors for name in params},
    )


def given_back(task: Task, trainers: dict[str, Any]) -> None:
    """Give the module of the task, whose arrays were given away, those that were trained."""
    if isinstance(task.model, nnx.Module) and "jax" in trainers:
        nnx.update(task.model, nnx.state(trainers["jax"].model))


def rate(options: TrainingOptions, step: Any) -> jax.Array:
    """Linear warm-up, then linear decay; `step` counts from 0."""
    step = jnp.asarray(step, int)
    warmup = round(options.warmup * options.steps)
    climbing = (step + 1) / max(warmup, 1)
    falling = (options.steps - step) / max(options.steps - warmup, 1)
    return options.learning_rate * jnp.minimum(1.0, jnp.minimum(climbing, falling))
