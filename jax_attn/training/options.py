"""The options that all examples have."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """What can be set; the comments are the text of `--help`."""

    framework: Literal["jax", "torch", "both"] = "jax"  # both: same weights, same batches, and no dropout
    steps: int = 600  # optimizer steps
    batch_size: int = 64  # rows of a step, over all devices
    accumulate: int = 1  # parts that a batch is computed in, one after another
    learning_rate: float = 1e-3  # the highest, at the end of the warm-up
    schedule: Literal["linear", "cosine", "inverse-sqrt", "wsd"] = "linear"  # how it falls after that
    warmup: float = 0.1  # share of the steps in which the learning rate climbs
    weight_decay: float = 0.01  # of AdamW
    max_grad_norm: float | None = 1.0  # longer gradients are scaled down to this; None leaves them
    dtype: Literal["float32", "bfloat16", "float64"] = (
        "float32"  # to compute in; bfloat16 keeps float32 weights
    )
    seed: int = 0  # of the split, the weights, the order of the data and dropout
