"""Rotary frequencies for texts longer than those of training."""

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_attn.functional.checks import require_cap, require_known, require_positive

Length = Any  # an int, or an array that broadcasts against (b, t, r / 2)
Frequencies = Any  # float64 (r / 2,), computed while tracing; or an array, where they depend on the text


def rotary_frequencies(base: Any, width: int) -> Frequencies:
    """`base^(-2i / width)` for `i = 0 .. width/2 - 1`: the angle of each pair from one position to the next."""
    exponents = -np.arange(0, width, 2) / width
    return base ** (jnp.asarray(exponents, base.dtype) if isinstance(base, jax.Array) else exponents)


class RotaryScaling:
    """How the frequencies of rotary positions change, so that longer texts look like those of training."""

    @property
    def why_no_cache(self) -> str | None:
        """Why tokens cannot be computed one by one; None where they can."""
        return None

    @property
    def longest_cached(self) -> int:
        """Of how many tokens texts may be where they can all the same."""
        return 0

    @property
    def attention_scaling(self) -> float:
        """What rotated queries and keys are multiplied by."""
        return 1.0

    def frequencies(self, base: float, width: int, length: Length) -> Frequencies:
        """The frequencies of `width / 2` pairs for a text of `length` tokens.

        Raises:
            ValueError: there can be none for this width.
        """
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class LinearScaling(RotaryScaling):
    """Position interpolation: every frequency is divided by `factor`.

    Args:
        factor: how many times longer texts may be.

    Raises:
        ValueError: `factor` is not above 0.

    Source: Chen et al. (arXiv 2306.15595).
    """

    factor: float

    def __post_init__(self):
        require_cap("factor", self.factor)

    def frequencies(self, base: float, width: int, length: Length) -> Frequencies:
        """Those of a text `factor` times shorter."""
        return rotary_frequencies(base, width) / self.factor


@dataclasses.dataclass(frozen=True)
class DynamicNTKScaling(RotaryScaling):
    """The base grows with the text: `base · (factor · L / M - factor + 1)^(r / (r - 2))` where `L > M`.

    `L` is the length of each row's text, its largest position and one, and `M` that of training. (In
    transformers the longest text of the batch decides for all of its rows.)

    Args:
        factor: how fast it grows.
        original_length: tokens of a text in training.

    Raises:
        ValueError: `factor` or `original_length` is not above 0, or only two features are rotated.

    Source: bloc97 and emozilla, as in transformers' "dynamic".
    """

    factor: float
    original_length: int

    def __post_init__(self):
        require_cap("factor", self.factor)
        require_positive("original_length", self.original_length)

    @property
    def why_no_cache(self) -> str:
        """The text decides."""
        return (
            "rotary positions with dynamic NTK scaling cannot be cached: a new token changes all frequencies"
        )

    @property
    def longest_cached(self) -> int:
        """Texts like those of training leave the base as it is."""
        return self.original_length

    def frequencies(self, base: float, width: int, length: Length) -> Frequencies:
        """Those of a larger base."""
        if width == 2:
            raise ValueError("dynamic NTK scaling needs more than one pair of rotated features")
        if isinstance(length, jax.Array):
            longer = jnp.maximum(length, self.original_length) / self.original_length
        else:
            longer = max(length, self.original_length) / self.original_length
        return rotary_frequencies(
            base * (self.factor * longer - self.factor + 1) ** (width / (width - 2)), width
        )


@dataclasses.dataclass(frozen=True)
class YarnScaling(RotaryScaling):
    """YaRN: pairs that turn often stay, pairs that turn seldom are interpolated, with a ramp between them.

    A pair `i` with `γ = clip((i - low) / (high - low), 0, 1)` has frequency `f_i (1 - γ + γ / factor)`; `low` and
    `high` are the pairs that turn `beta_fast` and `beta_slow` times in a text of training. Queries and keys are
    multiplied by `0.1 log(factor) + 1`, which takes the place of a temperature.

    Args:
        factor: how many times longer texts may be.
        original_length: tokens of a text in training.
        attention_factor: what queries and keys are multiplied by in place of that.
        beta_fast: turns from which on a pair stays as it is.
        beta_slow: turns up to which a pair is interpolated.
        mscale: `s` in `0.1 s log(factor) + 1`, divided by the same of `mscale_all_dim` (DeepSeek's).
        mscale_all_dim: see `mscale`; both or neither.
        truncate: whether the ends of the ramp are whole pairs.

    Raises:
        ValueError: `factor` or `original_length` is not above 0, `beta_fast` not above `beta_slow`, or the base
            of the frequencies is 1.

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

    def __post_init__(self):
        require_cap("factor", self.factor)
        require_positive("original_length", self.original_length)
        require_above("beta_fast", self.beta_fast, "beta_slow", self.beta_slow)

    @property
    def attention_scaling(self) -> float:
        """The temperature's square root, upside down."""
        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return self._grown(self.mscale) / self._grown(self.mscale_all_dim)
        return self._grown(1.0)

    def _grown(self, mscale: float) -> float:
        return 0.1 * mscale * math.log(self.factor) + 1 if self.factor > 1 else 1.0

    def frequencies(self, base: float, width: int, length: Length) -> Frequencies:
        """Those of both kinds, mixed."""
        if base == 1:
            raise ValueError("yarn scaling needs a base other than 1, with which all pairs turn alike")
        low, high = (
            width * math.log(self.original_length / (turns * 2 * math.pi)) / (2 * math.log(base))
            for turns in (self.beta_fast, self.beta_slow)
        )
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, width - 1)
        high = high + 0.001 if high == low else high  # a step in place of a ramp
        ramp = np.clip((np.arange(width // 2) - low) / (high - low), 0, 1)
        return rotary_frequencies(base, width) * (1 - ramp + ramp / self.factor)


@dataclasses.dataclass(frozen=True)
class Llama3Scaling(RotaryScaling):
    """Llama 3.1's: long waves are interpolated, short ones stay, and those between are mixed.

    With `γ = clip((turns - low) / (high - low), 0, 1)`, where `turns` are a pair's in a text of training, its
    frequency is multiplied by `γ + (1 - γ) / factor`.

    Args:
        factor: how many times longer texts may be.
        low_freq_factor: turns up to which a pair is interpolated.
        high_freq_factor: turns from which on a pair stays as it is.
        original_length: tokens of a text in training.

    Raises:
        ValueError: `factor` or `original_length` is not above 0, or `high_freq_factor` not above `low_freq_factor`.

    Source: Llama 3.1; as in transformers' "llama3".
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_length: int

    def __post_init__(self):
        require_cap("factor", self.factor)
        require_positive("original_length", self.original_length)
        require_above("high_freq_factor", self.high_freq_factor, "low_freq_factor", self.low_freq_factor)

    def frequencies(self, base: float, width: int, length: Length) -> Frequencies:
        """Those of both kinds, mixed."""
        plain = rotary_frequencies(base, width)
        turns = self.original_length * plain / (2 * math.pi)
        stays = np.clip((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor), 0, 1)
        return plain * (stays + (1 - stays) / self.factor)


@dataclasses.dataclass(frozen=True)
class LongRopeScaling(RotaryScaling):
    """LongRoPE: each pair's frequency is divided by a factor of its own, found by search.

    Texts longer than those of training have other factors. Queries and keys are multiplied by
    `sqrt(1 + log(factor) / log(original_length))`, whichever factors are taken.

    Args:
        short_factor: `r / 2` factors for texts up to `original_length`.
        long_factor: `r / 2` factors for longer ones.
        factor: how many times longer texts may be: `max_position_embeddings / original_length`.
        original_length: tokens of a text in training.
        attention_factor: what queries and keys are multiplied by in place of that.
        choice: "short" or "long" takes these factors for all texts; None looks at each row's largest position.

    Raises:
        ValueError: factors that are not above 0 or not one for each pair, `factor` or `original_length` not above
            0 (or 1 where its logarithm is divided by), or `choice` is not known.

    Source: Ding et al. (arXiv 2402.13753); as in transformers' "longrope" (Phi-3).
    """

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    factor: float
    original_length: int
    attention_factor: float | None = None
    choice: str | None = None

    def __post_init__(self):
        for name in ("short_factor", "long_factor"):
            factors = getattr(self, name)
            if isinstance(factors, str) or not isinstance(factors, Iterable):
                raise ValueError(f"{name} must be a tuple, a factor for each pair, got {factors!r}")
            factors = tuple(factors)  # a list of a configuration, too
            for factor in factors or (0,):
                require_cap(name, factor)
            object.__setattr__(self, name, factors)
        require_cap("factor", self.factor)
        require_positive("original_length", self.original_length)
        require_known("choice", self.choice, (None, "short", "long"))
        if self.attention_factor is None and self.factor > 1 and self.original_length == 1:
            raise ValueError(
                "original_length must be above 1 without attention_factor, got original_length=1"
            )

    @property
    def why_no_cache(self) -> str | None:
        """Only where the text decides."""
        if self.choice is not None:
            return None
        return (
            "rotary positions with longrope scaling cannot be cached unless choice is given: "
            "a text that grows too long changes all frequencies"
        )

    @property
    def longest_cached(self) -> int:
        """Texts like those of training have the short factors throughout."""
        return self.original_length

    @property
    def attention_scaling(self) -> float:
        """What was left of the entropy's growth."""
        if self.attention_factor is not None:
            return self.attention_factor
        if self.factor <= 1:
            return 1.0
        return math.sqrt(1 + math.log(self.factor) / math.log(self.original_length))

    def frequencies(self, base: float, width: int, length: Length) -> Frequencies:
        """Those of short or of long texts."""
        for name in ("short_factor", "long_factor"):
            if len(getattr(self, name)) != width // 2:
                raise ValueError(
                    f"{name} must have a factor for each of {width // 2} pairs, got {len(getattr(self, name))}"
                )
        plain = rotary_frequencies(base, width)
        short, long = plain / np.array(self.short_factor), plain / np.array(self.long_factor)
        if self.choice is not None:
            return {"short": short, "long": long}[self.choice]
        if isinstance(length, jax.Array):
            return jnp.where(
                length > self.original_length,
                jnp.asarray(long, length.dtype),
                jnp.asarray(short, length.dtype),
            )
        return long if length > self.original_length else short


def require_above(name: str, value: float, other_name: str, other: float) -> None:
    """Raise ValueError unless `value > other`."""
    if not value > other:
        raise ValueError(f"{name} must be above {other_name}={other}, got {name}={value}")
