"""From an image to one vector for each of its patches."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.functional.checks import require_divisible, require_pair, require_positive
from jax_attn.nn.primitives import Conv, Dropout


class PatchEmbeddings(nnx.Module):
    """`dropout([class, patch_1 W + b, patch_2 W + b, ...] + position)`, patches row by row.

    Parameters: `projection` kernel `(*patch_size, num_channels, embed_dim)` and bias, `class_token` `(1, 1,
    embed_dim)`, `position` `(1, number of vectors, embed_dim)`; the last two are drawn from N(0, 0.02²).

    Args:
        image_size: height and width of the image, or one number for both.
        patch_size: height and width of a patch, or one number for both; they divide those of the image.
        num_channels: number of channels of the image.
        embed_dim: width of the output.
        class_token: whether a learned vector goes first.
        dropout: probability of dropping an output while training.
        bias: whether one is added to each patch.
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: the patch does not divide the image, a size is not positive, or the image is not `(height,
            width, num_channels)` or a batch of those.

    Source: Dosovitskiy et al. (arXiv 2010.11929), section 3.1.
    """

    def __init__(
        self,
        image_size: int | tuple[int, int],
        patch_size: int | tuple[int, int],
        num_channels: int,
        embed_dim: int,
        class_token: bool = True,
        dropout: float = 0.0,
        bias: bool = True,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        image, patch = require_pair("image_size", image_size), require_pair("patch_size", patch_size)
        require_positive("num_channels", num_channels)
        require_positive("embed_dim", embed_dim)
        rows, columns = (
            require_divisible("image_size", size, "patch_size", part)
            for size, part in zip(image, patch, strict=True)
        )
        own: dict[str, Any] = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.image_shape = (*image, num_channels)
        self.dtype = dtype
        self.projection = Conv(num_channels, embed_dim, patch, stride=patch, bias=bias, **own)

        def normal(*shape: int) -> nnx.Param:
            return nnx.Param(0.02 * jax.random.normal(rngs.params(), shape, param_dtype))

        self.class_token = normal(1, 1, embed_dim) if class_token else None
        self.position = normal(1, rows * columns + class_token, embed_dim)
        self.dropout = Dropout(dropout, rngs=rngs)

    def __call__(self, images: Float[Array, "*b h w c"]) -> Float[Array, "*b n d"]:
        """`(h, w, c)` to `(number of vectors, embed_dim)`, or the same with a batch axis before."""
        if images.ndim not in (3, 4) or images.shape[-3:] != self.image_shape:
            shape = ", ".join(map(str, self.image_shape))
            raise ValueError(f"images must have shape ({shape}) or (b, {shape}), got {images.shape}")
        patches = self.projection(images)
        *batch, rows, columns, width = patches.shape
        x = patches.reshape(*batch, rows * columns, width)
        x, position = promote_dtype((x, self.position[0]), dtype=self.dtype)
        if self.class_token is not None:
            first = jnp.broadcast_to(self.class_token[0].astype(x.dtype), (*x.shape[:-2], 1, x.shape[-1]))
            x = jnp.concatenate([first, x], axis=-2)
        return self.dropout(x + position)
