"""Positions: where a token stands, told to a model."""

from jax_attn.nn.positions.learned import LearnedPositions
from jax_attn.nn.positions.sinusoidal import SinusoidalPositions

__all__ = [
    "LearnedPositions",
    "SinusoidalPositions",
]


def __dir__() -> list[str]:
    return __all__
