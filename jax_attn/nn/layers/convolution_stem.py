"""From a spectrogram to vectors, half as many as it has frames."""

from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.functional.activations import ACTIVATIONS
from jax_attn.functional.checks import checked, require_known, require_last_dim, require_positive
from jax_attn.functional.logical_axes import LogicalAxes
from jax_attn.nn.primitives import Conv


class ConvolutionStem(nnx.Module):
    """`activation(conv2(activation(conv1(x))))`: kernels of 3 frames, the second with a step of 2.

    Parameters: `conv1` kernel `(3, num_features, embed_dim)`, `conv2` kernel `(3, embed_dim, embed_dim)`, and their
    biases.

    Args:
        num_features: number of features of a frame, such as Mel bands.
        embed_dim: width of the output.
        activation: "gelu" or another name that `FeedForward` knows.
        rngs: source of the initial weights.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: the activation is not known, a size is not positive, or the input is not `(t, num_features)` or
            `(b, t, num_features)`.

    Source: Radford et al. (arXiv 2212.04356), section 2.2.
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "conv1": ("channels", "embed"),
        "conv2": (None, "embed"),
    }

    @checked
    def __init__(
        self,
        num_features: int,
        embed_dim: int,
        activation: str = "gelu",
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_known("activation", activation, ACTIVATIONS)
        require_positive("num_features", num_features)
        require_positive("embed_dim", embed_dim)
        own: dict[str, Any] = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.num_features = num_features
        self.activation = activation
        self.conv1 = Conv(num_features, embed_dim, (3,), padding=1, **own)
        self.conv2 = Conv(embed_dim, embed_dim, (3,), stride=2, padding=1, **own)

    def __call__(self, x: Float[Array, "*b s f"]) -> Float[Array, "*b t d"]:
        """`(t, num_features)` to `(ceil(t / 2), embed_dim)`, or the same with a batch axis before."""
        require_last_dim("x", x.shape, self.num_features)
        activation = ACTIVATIONS[self.activation]
        return activation(self.conv2(activation(self.conv1(x))))
