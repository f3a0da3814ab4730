"""The torch twins: positions: where a token stands, told to a model."""

from torch_ref.nn.positions.alibi import AlibiPositions
from torch_ref.nn.positions.attention_positions import AttentionPositions
from torch_ref.nn.positions.axial_rotary import AxialRotaryPositions
from torch_ref.nn.positions.learned import LearnedPositions
from torch_ref.nn.positions.rotary import RotaryPositions
from torch_ref.nn.positions.rotary_scaling import (
    DynamicNTKScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    RotaryScaling,
    YarnScaling,
)
from torch_ref.nn.positions.shaw import ShawPositions
from torch_ref.nn.positions.sinusoidal import SinusoidalPositions
from torch_ref.nn.positions.t5 import T5Positions

__all__ = [
    "AlibiPositions",
    "AttentionPositions",
    "AxialRotaryPositions",
    "DynamicNTKScaling",
    "LearnedPositions",
    "LinearScaling",
    "Llama3Scaling",
    "LongRopeScaling",
    "RotaryPositions",
    "RotaryScaling",
    "ShawPositions",
    "SinusoidalPositions",
    "T5Positions",
    "YarnScaling",
]


def __dir__() -> list[str]:
    return __all__
