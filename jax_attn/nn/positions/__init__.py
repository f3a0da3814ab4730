"""Positions: where a token stands, told to a model."""

from jax_attn.nn.positions.alibi import AlibiPositions
from jax_attn.nn.positions.attention_positions import AttentionPositions, Places, token_positions
from jax_attn.nn.positions.learned import LearnedPositions
from jax_attn.nn.positions.rotary import RotaryPositions
from jax_attn.nn.positions.sinusoidal import SinusoidalPositions

__all__ = [
    "AlibiPositions",
    "AttentionPositions",
    "LearnedPositions",
    "Places",
    "RotaryPositions",
    "SinusoidalPositions",
    "token_positions",
]


def __dir__() -> list[str]:
    return __all__
