"""From an image to one vector for each of its patches."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jax_attn.functional.checks import (
    checked,
    require_boolean_mask,
    require_divisible,
    require_known,
    require_pair,
    require_positive,
)
from jax_attn.functional.dtypes import accumulator
from jax_attn.functional.logical_axes import LogicalAxes, constrain
from jax_attn.functional.resize import resize_bicubic
from jax_attn.nn.primitives import Conv, Dropout

RESIZINGS = ("bicubic", "bicubic_antialias")


class PatchEmbeddings(nnx.Module):
    """`dropout([class, patch_1 W + b, patch_2 W + b, ...] + position)`, patches row by row.

    Registers, which have no position, stand behind the class token. With a mask token, patches may be hidden: it
    stands in for what they would be.

    Parameters: `projection` kernel `(*patch_size, num_channels, embed_dim)` and bias, `class_token` `(1, 1,
    embed_dim)`, `position` `(1, number of patches and class token, embed_dim)`, `registers` `(1, num_registers,
    embed_dim)`, all drawn from N(0, 0.02²); `mask_token` `(1, embed_dim)`, initially 0.

    Args:
        image_size: height and width of the image, or one number for both.
        patch_size: height and width of a patch, or one number for both; they divide those of the image.
        num_channels: number of channels of the image.
        embed_dim: width of the output.
        class_token: whether a learned vector goes first.
        dropout: probability of dropping an output while training.
        bias: whether one is added to each patch.
        num_registers: number of learned vectors behind the class token (DINOv2 with registers).
        mask_token: whether there is a learned vector for hidden patches.
        resize: how the grid of positions is resized where an image has another size: "bicubic" (DINOv2) or
            "bicubic_antialias" (the same with registers). None is that such images are refused.
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: the patch does not divide the image, a size is not positive, `resize` is not known, the image is
            not `(height, width, num_channels)` or a batch of those, or patches are hidden without a mask token.

    Source: Dosovitskiy et al. (arXiv 2010.11929), section 3.1; registers: Darcet et al. (arXiv 2309.16588).
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "projection": ("channels", "embed"),
        "class_token": ("positions", "embed"),
        "position": ("positions", "embed"),
        "registers": ("positions", "embed"),
        "mask_token": ("positions", "embed"),
    }

    @checked
    def __init__(
        self,
        image_size: int | tuple[int, int],
        patch_size: int | tuple[int, int],
        num_channels: int,
        embed_dim: int,
        class_token: bool = True,
        dropout: float = 0.0,
        bias: bool = True,
        num_registers: int = 0,
        mask_token: bool = False,
        resize: str | None = None,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        image, patch = require_pair("image_size", image_size), require_pair("patch_size", patch_size)
        require_positive("num_channels", num_channels)
        require_positive("embed_dim", embed_dim)
        if resize is not None:
            require_known("resize", resize, RESIZINGS)
        rows, columns = (
            require_divisible("image_size", size, "patch_size", part)
            for size, part in zip(image, patch, strict=True)
        )
        own: dict[str, Any] = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.image_shape = (*image, num_channels)
        self.grid = rows, columns
        self.resize = resize
        self.dtype = dtype
        self.projection = Conv(num_channels, embed_dim, patch, stride=patch, bias=bias, **own)

        def normal(*shape: int) -> nnx.Param:
            return nnx.Param(0.02 * jax.random.normal(rngs.params(), shape, param_dtype))

        self.class_token = normal(1, 1, embed_dim) if class_token else None
        self.position = normal(1, rows * columns + class_token, embed_dim)
        self.registers = normal(1, num_registers, embed_dim) if num_registers else None
        self.mask_token = nnx.Param(jnp.zeros((1, embed_dim), param_dtype)) if mask_token else None
        self.dropout = Dropout(dropout, rngs=rngs)

    def __call__(
        self, images: Float[Array, "*b h w c"], hidden: Bool[Array, "*b p"] | None = None
    ) -> Float[Array, "*b n d"]:
        """`(h, w, c)` to `(number of vectors, embed_dim)`, or the same with a batch axis before.

        Args:
            images: `(h, w, c)` or `(b, h, w, c)`.
            hidden: `(p,)` or `(b, p)`, True for each patch that the mask token stands in for; None is none.
        """
        if images.ndim not in (3, 4) or not self.takes(images.shape[-3:]):
            shape = ", ".join(map(str, self.wanted))
            raise ValueError(f"images must have shape ({shape}) or (b, {shape}), got {images.shape}")
        patches = self.projection(images)
        *batch, rows, columns, width = patches.shape
        x = patches.reshape(*batch, rows * columns, width)
        x, position = promote_dtype((x, self._positions(rows, columns)), dtype=self.dtype)
        if hidden is not None:
            x = self._with_hidden(x, hidden)
        first = [] if self.class_token is None else [self._before(x, self.class_token)]
        x = jnp.concatenate([*first, x], axis=-2) + position
        if self.registers is not None:
            registers = self._before(x, self.registers)
            x = jnp.concatenate([x[..., : len(first), :], registers, x[..., len(first) :, :]], axis=-2)
        return constrain(self.dropout(x), "batch", "length", None)

    @property
    def wanted(self) -> tuple[int | str, int | str, int]:
        """Height, width and channels of the images that are taken, as errors name them."""
        height, width, channels = self.image_shape
        return (height, width, channels) if self.resize is None else ("height", "width", channels)

    def takes(self, shape: tuple[int, ...]) -> bool:
        """Whether images of this height, width and number of channels are taken."""
        if self.resize is None:
            return shape == self.image_shape
        patch = self.projection.kernel_size
        return shape[2] == self.image_shape[2] and all(a >= b for a, b in zip(shape, patch, strict=False))

    def _positions(self, rows: int, columns: int) -> Float[Array, "n d"]:
        """The position of each vector, in a grid of patches of this size."""
        position = self.position[0]
        if (rows, columns) == self.grid:
            return position
        first = 0 if self.class_token is None else 1
        grid = position[first:].reshape(*self.grid, -1).astype(accumulator(position.dtype))
        grid = resize_bicubic(grid, (rows, columns), antialias=self.resize == "bicubic_antialias")
        resized = grid.reshape(rows * columns, -1).astype(position.dtype)
        return jnp.concatenate([position[:first], resized])

    def _with_hidden(self, x: Float[Array, "*b p d"], hidden: Bool[Array, "*b p"]) -> Float[Array, "*b p d"]:
        if self.mask_token is None:
            raise ValueError("hidden must be None, for there is no mask token: mask_token=False")
        require_boolean_mask("hidden", hidden, [x.shape[:-1]])
        return jnp.where(hidden[..., None], self.mask_token[...].astype(x.dtype), x)

    @staticmethod
    def _before(x: Float[Array, "*b p d"], tokens: nnx.Param) -> Array:
        """Vectors that stand in every sequence."""
        return jnp.broadcast_to(tokens[0].astype(x.dtype), (*x.shape[:-2], *tokens.shape[1:]))
