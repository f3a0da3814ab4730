"""Prove that a Flax NNX module and a torch module compute the same thing, or find where they differ."""

from jax_attn.parity.cases import Case
from jax_attn.parity.compare import compare, compare_cases
from jax_attn.parity.diagnosing.diagnose import Diagnosis, diagnose, lint_pair
from jax_attn.parity.lanes import LANES
from jax_attn.parity.locate import first_divergence, trace_modules
from jax_attn.parity.power import power
from jax_attn.parity.power_report import PowerReport
from jax_attn.parity.report import LeftOut, Report, Result
from jax_attn.parity.training import TrainingReport, compare_training, lint_optimizer
from jax_attn.parity.training.power import training_power

__all__ = [
    "LANES",
    "Case",
    "Diagnosis",
    "LeftOut",
    "PowerReport",
    "Report",
    "Result",
    "TrainingReport",
    "compare",
    "compare_cases",
    "compare_training",
    "diagnose",
    "first_divergence",
    "lint_optimizer",
    "lint_pair",
    "power",
    "trace_modules",
    "training_power",
]


def __dir__() -> list[str]:
    return __all__
