"""Positions: where a token stands, told to a model."""

from jax_attn.nn.positions.alibi import AlibiPositions
from jax_attn.nn.positions.attention_positions import AttentionPositions, Places, token_positions
from jax_attn.nn.positions.axial_rotary import AxialRotaryPositions
from jax_attn.nn.positions.learned import LearnedPositions
from jax_attn.nn.positions.rotary import RotaryPositions
from jax_attn.nn.positions.rotary_scaling import (
    DynamicNTKScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    RotaryScaling,
    YarnScaling,
)
from jax_attn.nn.positions.shaw import ShawPositions
from jax_attn.nn.positions.sinusoidal import SinusoidalPositions
from jax_attn.nn.positions.t5 import T5Positions

__all__ = [
    "AlibiPositions",
    "AttentionPositions",
    "AxialRotaryPositions",
    "DynamicNTKScaling",
    "LearnedPositions",
    "LinearScaling",
    "Llama3Scaling",
    "LongRopeScaling",
    "Places",
    "RotaryPositions",
    "RotaryScaling",
    "ShawPositions",
    "SinusoidalPositions",
    "T5Positions",
    "YarnScaling",
    "token_positions",
]


def __dir__() -> list[str]:
    return __all__
