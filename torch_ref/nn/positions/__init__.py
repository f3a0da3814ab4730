"""The torch twins: positions: where a token stands, told to a model."""

from torch_ref.nn.positions.learned import LearnedPositions
from torch_ref.nn.positions.sinusoidal import SinusoidalPositions

__all__ = [
    "LearnedPositions",
    "SinusoidalPositions",
]


def __dir__() -> list[str]:
    return __all__
