"""Two trainings, step by step: what differs first, and which setting explains it."""

from jax_attn.parity.training.compare import compare_training
from jax_attn.parity.training.lint_optimizer import lint_optimizer
from jax_attn.parity.training.report import TrainingReport

__all__ = ["TrainingReport", "compare_training", "lint_optimizer"]
