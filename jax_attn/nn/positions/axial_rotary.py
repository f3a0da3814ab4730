"""Positions in a picture, as angles by which queries and keys are turned."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jax_attn.functional.checks import checked, require_cap, require_positive
from jax_attn.functional.dtypes import accumulator
from jax_attn.nn.positions.attention_positions import AttentionPositions
from jax_attn.nn.positions.rotary import turn
from jax_attn.nn.positions.rotary_scaling import rotary_frequencies


class AxialRotaryPositions(nnx.Module, AttentionPositions):
    """Turn pairs of features of a query or key by angles that grow with its row, and others with its column.

    A patch at row `y` and column `x` has position `y · width + x`. Features are halves that pair up: of the
    `head_dim / 2` pairs, the first half is turned by `y · f_i`, the second by `x · f_i`, with
    `f_i = base^(-4i / head_dim)`. So the score of two patches depends on how far they are apart on both axes. It
    has neither parameters nor buffers.

    What has no place in the picture, such as a class token, is given position 0 (or one below): it is not turned.

    Args:
        head_dim: width of a head; a multiple of 4.
        width: patches in a row of the picture; a narrower picture may be given its positions by the same rule.
        base: of the wavelengths.
        rngs: not used; taken so that every kind of position is built alike.
        dtype: not used, as `rngs`.
        param_dtype: not used, as `rngs`.

    Raises:
        ValueError: `head_dim` is no multiple of 4 or not that of the attention, or `width` or `base` is not
            positive.

    Source: the two axes of Su et al. (arXiv 2104.09864) as in Qwen2-VL's vision encoder (arXiv 2409.12191).
        (Pixtral deals out the frequencies of one axis to both.)
    """

    @checked
    def __init__(
        self,
        head_dim: int,
        width: int,
        base: float = 10000.0,
        *,
        rngs: nnx.Rngs | None = None,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_positive("head_dim", head_dim)
        require_positive("width", width)
        require_cap("base", base)
        if head_dim % 4:
            raise ValueError(
                f"head_dim must be a multiple of 4, two features an axis, got head_dim={head_dim}"
            )
        self.head_dim = head_dim
        self.width = width
        self.base = base

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
        """`(b, t, n, head_dim)` to the same shape, at `positions` `(b or 1, t)`, or row by row from the first."""
        wide = accumulator(x.dtype)
        at = jnp.arange(x.shape[1])[None] if positions is None else jnp.maximum(positions, 0)
        frequencies = jnp.asarray(rotary_frequencies(self.base, self.head_dim // 2), wide)
        of_axes = [axis[..., None].astype(wide) * frequencies for axis in (at // self.width, at % self.width)]
        angles = jnp.concatenate(of_axes, axis=-1)[:, :, None]  # (b, t, 1, h/2)
        turned = turn(x.astype(wide), jnp.cos(angles), jnp.sin(angles), interleaved=False)
        return turned.astype(x.dtype)
