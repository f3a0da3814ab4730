"""Prove that a Flax NNX module and a torch module compute the same thing, or find where they differ."""

from jax_attn.parity.cases import Case
from jax_attn.parity.compare import compare, compare_cases
from jax_attn.parity.lanes import LANES
from jax_attn.parity.locate import first_divergence, trace_modules
from jax_attn.parity.report import LeftOut, Report, Result
from jax_attn.parity.training import TrainingReport, compare_training

__all__ = [
    "LANES",
    "Case",
    "LeftOut",
    "Report",
    "Result",
    "TrainingReport",
    "compare",
    "compare_cases",
    "compare_training",
    "first_divergence",
    "trace_modules",
]
