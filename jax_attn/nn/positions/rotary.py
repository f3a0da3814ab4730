"""Positions as angles by which queries and keys are turned."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jax_attn.functional.checks import checked, require_cap
from jax_attn.functional.dtypes import accumulator
from jax_attn.nn.positions.attention_positions import AttentionPositions
from jax_attn.nn.positions.rotary_scaling import RotaryScaling, rotary_frequencies


class RotaryPositions(nnx.Module, AttentionPositions):
    """Turn pairs of features of a query or key by angles that grow with its position.

    Pair `i` of `r / 2` is turned by `p · base^(-2i / r)`, so that the score of a query and a key depends on how
    far they are apart. Half-split: features `i` and `i + r/2` are a pair; interleaved: `2i` and `2i + 1`.
    Features from `r` on stay as they are. Angles are computed in float32 at least. It has neither parameters nor
    buffers.

    Args:
        head_dim: width of a head.
        base: of the wavelengths, `theta` of many configurations.
        rotary_dim: how many features are turned, the first; None is all. It is even.
        interleaved: whether neighbours are pairs, as in the paper's formula, in place of the two halves.
        scaling: how frequencies change for long texts, from `jax_attn.nn.positions`; None is not at all.
        rngs: not used; taken so that every kind of position is built alike.
        dtype: not used, as `rngs`.
        param_dtype: not used, as `rngs`.

    Raises:
        ValueError: `rotary_dim` is odd or more than `head_dim`, `base` is not above 0, `scaling` is for another
            number of pairs, or `head_dim` is not that of the attention.

    Source: Su et al. (arXiv 2104.09864), section 3.4.2; half-split as transformers' Llama, interleaved as GPT-J.
    """

    @checked
    def __init__(
        self,
        head_dim: int,
        base: float = 10000.0,
        rotary_dim: int | None = None,
        interleaved: bool = False,
        scaling: RotaryScaling | None = None,
        *,
        rngs: nnx.Rngs | None = None,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        width = head_dim if rotary_dim is None else rotary_dim
        if width % 2 or not 0 < width <= head_dim:
            raise ValueError(
                f"rotary_dim must be even and at most head_dim={head_dim}, got rotary_dim={width}"
            )
        require_cap("base", base)
        self.head_dim = head_dim
        self.rotary_dim = width
        self.base = base
        self.interleaved = interleaved
        self.scaling = scaling
        if scaling is not None:
            if not isinstance(scaling, RotaryScaling):
                raise ValueError(f"scaling must be a RotaryScaling, such as LinearScaling, got {scaling!r}")
            scaling.frequencies(base, width, 1)  # tells now what does not fit
            self.why_no_cache = scaling.why_no_cache
            self.longest_cached = scaling.longest_cached

    def check_heads(self, num_heads: int, head_dim: int) -> None:
        """One width of heads."""
        if head_dim != self.head_dim:
            raise ValueError(
                f"positions are for heads of width {self.head_dim}, the attention has {head_dim}"
            )

    def rotate(
        self, x: Float[Array, "B T N H"], positions: Int[Array, "#B T"] | None
    ) -> Float[Array, "B T N H"]:
        """The queries or keys turned."""
        return self(x, positions)

    def __call__(
        self, x: Float[Array, "b t n h"], positions: Int[Array, "#b t"] | None = None
    ) -> Float[Array, "b t n h"]:
        """`(b, t, n, head_dim)` to the same shape, at `positions` `(b or 1, t)`, or at 0 to t-1."""
        wide = accumulator(x.dtype)
        at = jnp.arange(x.shape[1])[None] if positions is None else jnp.asarray(positions)
        frequencies, factor = rotary_frequencies(self.base, self.rotary_dim), 1.0
        if self.scaling is not None:
            length: Any = x.shape[1]
            if positions is not None:  # each row's own
                length = (1 + at.max(axis=1, initial=0)[:, None, None]).astype(wide)
            frequencies = self.scaling.frequencies(self.base, self.rotary_dim, length)
            factor = self.scaling.attention_scaling
        angles = (at[..., None].astype(wide) * jnp.asarray(frequencies, wide))[:, :, None]  # (b, t, 1, r/2)
        cos, sin = jnp.cos(angles) * factor, jnp.sin(angles) * factor
        turned = turn(x[..., : self.rotary_dim].astype(wide), cos, sin, self.interleaved)
        return jnp.concatenate([turned.astype(x.dtype), x[..., self.rotary_dim :]], axis=-1)


def turn(x: Array, cos: Array, sin: Array, interleaved: bool) -> Array:
    """Turn each pair `(a, b)` of features to `(a cos - b sin, b cos + a sin)`."""
    cos, sin = _computed_once(cos, sin)
    first, second = (x[..., 0::2], x[..., 1::2]) if interleaved else jnp.split(x, 2, axis=-1)
    pair = (first * cos - second * sin, second * cos + first * sin)
    return jnp.stack(pair, axis=-1).reshape(x.shape) if interleaved else jnp.concatenate(pair, axis=-1)


def _computed_once(cos: Array, sin: Array) -> tuple[Array, Array]:
    """Both as they are.

    XLA's CPU compiler would compute them in the loop over all features, anew for every head, which takes several
    times as long as to turn them. What is written into a part of an array it never takes into another loop.
    """
    both = jnp.zeros((2, *cos.shape), cos.dtype)
    for number, x in enumerate((cos, sin)):
        both = jax.lax.dynamic_update_index_in_dim(both, x, number, axis=0)
    return both[0], both[1]
