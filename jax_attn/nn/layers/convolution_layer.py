"""A layer with a convolution over neighbouring tokens beside it."""

from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jax_attn.functional.activations import ACTIVATIONS
from jax_attn.functional.checks import checked, require_boolean_mask, require_known
from jax_attn.functional.logical_axes import LogicalAxes
from jax_attn.nn.primitives import Conv, Dropout, LayerNorm


class ConvolutionLayer(nnx.Module):
    """`norm(layer(x) + activation(dropout(conv(x))))`: DeBERTa-v2's first layer, which sees n-grams too.

    Padding is zero to the convolution, and adds nothing.

    Parameters: `layer.…`; `convolution` kernel `(kernel_size, embed_dim / groups, embed_dim)` and bias; `norm`.

    Args:
        layer: the layer, built: called as `layer(x, mask, **options)`.
        embed_dim: width of input and output.
        kernel_size: how many neighbouring tokens are seen at once, an odd number.
        groups: into how many groups the features fall, each of which sees its own only.
        activation: "tanh" or another name that `FeedForward` knows.
        dropout: probability of dropping an element of the convolution, while training.
        eps: epsilon of the norm.
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: `kernel_size` is even, `groups` does not divide `embed_dim`, `activation` is not known, or the
            mask does not tell which tokens are no padding.

    Source: He et al. (arXiv 2006.03754), in the code of DeBERTa-v2, as transformers' DebertaV2.
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "convolution": (None, "embed"),
    }

    @checked
    def __init__(
        self,
        layer: Any,
        embed_dim: int,
        kernel_size: int,
        groups: int = 1,
        activation: str = "tanh",
        dropout: float = 0.0,
        eps: float = 1e-7,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {kernel_size}")
        require_known("activation", activation, ACTIVATIONS)
        own: dict[str, Any] = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.activation = activation
        self.layer = layer
        sizes = (kernel_size,), 1, kernel_size // 2, groups
        self.convolution = Conv(embed_dim, embed_dim, *sizes, **own)
        self.dropout = Dropout(dropout, rngs=rngs)
        self.norm = LayerNorm(embed_dim, eps, **own)

    def __call__(
        self, x: Float[Array, "*b t d"], mask: Bool[Array, "*b t"] | None = None, **options: Any
    ) -> Float[Array, "*b t d"]:
        """`(t, d)` or `(b, t, d)` to the same shape.

        Args:
            x: the tokens.
            mask: `(t,)` or `(b, t)`, True = a token and no padding; None is all.
            options: what else the layer takes.
        """
        if mask is not None:
            require_boolean_mask("mask", mask, [x.shape[:-1]])
        attended = self.layer(x, mask, **options)
        seen = self._without_padding(self.convolution(self._without_padding(x, mask)), mask)
        return self.norm(attended + ACTIVATIONS[self.activation](self.dropout(seen)))

    @staticmethod
    def _without_padding(x: Float[Array, "*b t d"], mask: Any) -> Float[Array, "*b t d"]:
        return x if mask is None else jnp.where(mask[..., None], x, 0)
