"""Train a model: one loop, on one CPU or over a mesh, beside its torch twin where that is asked for."""

from jax_attn.training.distributed import initialize
from jax_attn.training.loop import Result, fit
from jax_attn.training.mesh import batch_sharding, create_sharded, make_mesh, place_batch
from jax_attn.training.options import TrainingOptions
from jax_attn.training.shardings import logical_axes_of, parameter_shardings, shardings_like
from jax_attn.training.task import Task
from jax_attn.training.trainer import Trainer

__all__ = [
    "Result",
    "Task",
    "Trainer",
    "TrainingOptions",
    "batch_sharding",
    "create_sharded",
    "fit",
    "initialize",
    "logical_axes_of",
    "make_mesh",
    "parameter_shardings",
    "place_batch",
    "shardings_like",
]


def __dir__() -> list[str]:
    return __all__
