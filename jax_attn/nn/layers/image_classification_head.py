"""From the vectors of an image to one score for each class, by its class token and by its patches."""

from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.functional.checks import checked, require_last_dim, require_positive
from jax_attn.functional.logical_axes import LogicalAxes
from jax_attn.nn.primitives import Linear


class ImageClassificationHead(nnx.Module):
    """`[x_0, mean(x_n, x_{n+1}, ...)] W + b`: the class token beside the mean of the patches, which are read apart.

    (ViT's own classifier reads the class token alone: `ClassificationHead`.)

    Parameters: `linear` kernel `(2 * embed_dim, num_classes)` and bias.

    Args:
        embed_dim: width of the input.
        num_classes: number of classes.
        num_registers: number of vectors between the class token and the patches, which are not read.
        rngs: source of the initial weights.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: a size is not positive, or the input not `(t, embed_dim)` or `(b, t, embed_dim)` with a
            patch in it.

    Source: Oquab et al. (arXiv 2304.07193), section 7.1, as transformers' Dinov2ForImageClassification.
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "linear": ("embed", "classes"),
    }

    @checked
    def __init__(
        self,
        embed_dim: int,
        num_classes: int,
        num_registers: int = 0,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_positive("embed_dim", embed_dim)
        require_positive("num_classes", num_classes)
        self.embed_dim = embed_dim
        self.first_patch = 1 + num_registers
        self.linear = Linear(2 * embed_dim, num_classes, rngs=rngs, dtype=dtype, param_dtype=param_dtype)

    def __call__(self, x: Float[Array, "*b t d"]) -> Float[Array, "*b c"]:
        """`(t, d)` to logits `(num_classes,)`, or `(b, t, d)` to `(b, num_classes)`."""
        require_last_dim("x", x.shape, self.embed_dim)
        if x.shape[-2] <= self.first_patch:
            raise ValueError(f"x must have more than {self.first_patch} vectors, got {x.shape[-2]}")
        patches = x[..., self.first_patch :, :].mean(axis=-2)
        return self.linear(jnp.concatenate([x[..., 0, :], patches], axis=-1))
