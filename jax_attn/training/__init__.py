"""Train a model: one loop, on one CPU or over a mesh, beside its torch twin where that is asked for."""

from jax_attn.training.loop import Result, fit
from jax_attn.training.options import TrainingOptions
from jax_attn.training.task import Task
from jax_attn.training.trainer import Trainer

__all__ = ["Result", "Task", "Trainer", "TrainingOptions", "fit"]


def __dir__() -> list[str]:
    return __all__
