"""The torch twins: positions: where a token stands, told to a model."""

from torch_ref.nn.positions.alibi import AlibiPositions
from torch_ref.nn.positions.attention_positions import AttentionPositions
from torch_ref.nn.positions.learned import LearnedPositions
from torch_ref.nn.positions.rotary import RotaryPositions
from torch_ref.nn.positions.sinusoidal import SinusoidalPositions

__all__ = [
    "AlibiPositions",
    "AttentionPositions",
    "LearnedPositions",
    "RotaryPositions",
    "SinusoidalPositions",
]


def __dir__() -> list[str]:
    return __all__
