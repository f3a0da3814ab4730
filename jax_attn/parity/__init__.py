"""Prove that a Flax NNX module and a torch module compute the same thing."""

from jax_attn.parity.cases import Case
from jax_attn.parity.compare import compare, compare_cases
from jax_attn.parity.lanes import LANES
from jax_attn.parity.report import LeftOut, Report, Result

__all__ = ["LANES", "Case", "LeftOut", "Report", "Result", "compare", "compare_cases"]
