"""A learned factor for each feature of a branch, small at first."""

from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.functional.checks import checked, require_last_dim, require_positive
from jax_attn.functional.logical_axes import LogicalAxes


class LayerScale(nnx.Module):
    """`x * scale`: stands behind a branch, before it is added to the skip connection.

    Parameters: `scale` `(embed_dim,)`, initially `initial` throughout.

    Args:
        embed_dim: width of input and output.
        initial: initial value of the scale: close to 0, so that a deep stack starts as the identity. (DINOv2 starts
            at 1.)
        rngs: taken as every module takes them; nothing is drawn.
        dtype: dtype of the output; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: `embed_dim` is not positive, or the input is not `(t, embed_dim)` or `(b, t, embed_dim)`.

    Source: Touvron et al. (arXiv 2103.17239), section 2.
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "scale": ("norm",),
    }

    @checked
    def __init__(
        self,
        embed_dim: int,
        initial: float = 1e-5,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_positive("embed_dim", embed_dim)
        self.embed_dim = embed_dim
        self.scale = nnx.Param(jnp.full(embed_dim, initial, param_dtype))
        self.dtype = dtype

    def __call__(self, x: Float[Array, "*b t d"]) -> Float[Array, "*b t d"]:
        """`(t, d)` or `(b, t, d)` to the same shape."""
        require_last_dim("x", x.shape, self.embed_dim)
        x, scale = promote_dtype((x, self.scale[...]), dtype=self.dtype)
        return x * scale
