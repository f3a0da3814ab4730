"""Optimizers, clipping, schedules, losses and initialisers that equal torch's, under its names."""

from jax_attn.optim.adam_family import adam, adamw, nadam, radam
from jax_attn.optim.clipping import clip_grad_norm, clip_grad_value, global_norm
from jax_attn.optim.initialisers import (
    attention_bias_kv,
    attention_in_proj,
    attention_out_proj,
    embedding,
    linear_bias,
    linear_kernel,
)
from jax_attn.optim.losses import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    mse_loss,
    nll_loss,
)
from jax_attn.optim.optimizers import adagrad, rmsprop, sgd
from jax_attn.optim.schedules import (
    constant_lr,
    cosine_annealing_lr,
    exponential_lr,
    lambda_lr,
    linear_lr,
    linear_warmup,
    noam_lr,
    one_cycle_lr,
    one_cycle_momentum,
    sequential_lr,
    step_lr,
)
from jax_attn.optim.warmup import warmup_schedule

__all__ = [
    "adagrad",
    "adam",
    "adamw",
    "attention_bias_kv",
    "attention_in_proj",
    "attention_out_proj",
    "binary_cross_entropy_with_logits",
    "clip_grad_norm",
    "clip_grad_value",
    "constant_lr",
    "cosine_annealing_lr",
    "cross_entropy",
    "embedding",
    "exponential_lr",
    "global_norm",
    "lambda_lr",
    "linear_bias",
    "linear_kernel",
    "linear_lr",
    "linear_warmup",
    "mse_loss",
    "nadam",
    "nll_loss",
    "noam_lr",
    "one_cycle_lr",
    "one_cycle_momentum",
    "radam",
    "rmsprop",
    "sequential_lr",
    "sgd",
    "step_lr",
    "warmup_schedule",
]


def __dir__() -> list[str]:
    return __all__
