"""Rotary frequencies for texts longer than those of training."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def rotary_frequencies(base: float | Tensor, width: int, like: Tensor) -> Tensor:
    """`base^(-2i / width)` for `i = 0 .. width/2 - 1`."""
    exponents = torch.arange(0, width, 2, dtype=like.dtype, device=like.device) / width
    return 1.0 / base**exponents


class RotaryScaling:
    """How the frequencies of rotary positions change, so that longer texts look like those of training.

    See `jax_attn.nn.positions.rotary_scaling.RotaryScaling`. A length is a tensor `(b or 1, 1, 1)`.
    """

    @property
    def attention_scaling(self) -> float:
        """What rotated queries and keys are multiplied by."""
        return 1.0

    def frequencies(self, base: float, width: int, length: Tensor) -> Tensor:
        """The frequencies of `width / 2` pairs for texts of these lengths, in their dtype."""
        raise NotImplementedError


@dataclass(frozen=True)
class LinearScaling(RotaryScaling):
    """Position interpolation: every frequency is divided by `factor`. Source: Chen et al. (arXiv 2306.15595)."""

    factor: float

    def frequencies(self, base: float, width: int, length: Tensor) -> Tensor:
        """Those of a text `factor` times shorter."""
        return rotary_frequencies(base, width, length) / self.factor


@dataclass(frozen=True)
class DynamicNTKScaling(RotaryScaling):
    """The base grows with the text. Source: bloc97 and emozilla, as in transformers' "dynamic"."""

    factor: float
    original_length: int

    def frequencies(self, base: float, width: int, length: Tensor) -> Tensor:
        """Those of a larger base."""
        longer = length.clamp(min=self.original_length) / self.original_length
        grown = (self.factor * longer - (self.factor - 1)) ** (width / (width - 2))
        return rotary_frequencies(base * grown, width, length)


@dataclass(frozen=True)
class YarnScaling(RotaryScaling):
    """YaRN: pairs that turn often stay, pairs that turn seldom are interpolated, with a ramp between them.

    Source: Peng et al. (arXiv 2309.00071), sections 3.2 and 3.4; as in transformers' "yarn".
    """

    factor: float
    original_length: int
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    @property
    def attention_scaling(self) -> float:
        """The temperature's square root, upside down."""

        def grown(mscale: float) -> float:
            return 1.0 if self.factor <= 1 else 0.1 * mscale * math.log(self.factor) + 1.0

        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return grown(self.mscale) / grown(self.mscale_all_dim)
        return grown(1.0)

    def frequencies(self, base: float, width: int, length: Tensor) -> Tensor:
        """Those of both kinds, mixed."""

        def pair(turns: float) -> float:
            return width * math.log(self.original_length / (turns * 2 * math.pi)) / (2 * math.log(base))

        low, high = pair(self.beta_fast), pair(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, width - 1)
        if low == high:
            high += 0.001
        stays = rotary_frequencies(base, width, length)
        ramp = (torch.arange(width // 2).to(stays) - low) / (high - low)
        return torch.lerp(stays, stays / self.factor, ramp.clamp(0, 1))


@dataclass(frozen=True)
class Llama3Scaling(RotaryScaling):
    """Long waves are interpolated, short ones stay, and those between are mixed. Source: Llama 3.1."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_length: int

    def frequencies(self, base: float, width: int, length: Tensor) -> Tensor:
        """Those of both kinds, mixed."""
        stays = rotary_frequencies(base, width, length)
        wavelength = 2 * math.pi / stays
        mixed = (self.original_length / wavelength - self.low_freq_factor) / (
            self.high_freq_factor - self.low_freq_factor
        )
        mixed = (1 - mixed) * stays / self.factor + mixed * stays
        short = torch.where(wavelength < self.original_length / self.high_freq_factor, stays, mixed)
        return torch.where(
            wavelength > self.original_length / self.low_freq_factor, stays / self.factor, short
        )


@dataclass(frozen=True)
class LongRopeScaling(RotaryScaling):
    """LongRoPE: each pair's frequency is divided by a factor of its own. Source: Ding et al. (arXiv 2402.13753)."""

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    factor: float
    original_length: int
    attention_factor: float | None = None
    choice: str | None = None

    @property
    def attention_scaling(self) -> float:
        """What was left of the entropy's growth."""
        if self.attention_factor is not None:
            return self.attention_factor
        return math.sqrt(1 + math.log(max(self.factor, 1.0)) / math.log(self.original_length))

    def frequencies(self, base: float, width: int, length: Tensor) -> Tensor:
        """Those of short or of long texts."""
        short, long = (length.new_tensor(factors) for factors in (self.short_factor, self.long_factor))
        is_long = length > self.original_length
        if self.choice is not None:
            is_long = torch.full_like(is_long, self.choice == "long")
        return rotary_frequencies(base, width, length) / torch.where(is_long, long, short)
