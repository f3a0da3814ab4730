"""From a sequence of vectors to one number."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jax_attn.functional.checks import checked
from jax_attn.nn.layers.classification_head import ClassificationHead


class RegressionHead(ClassificationHead):
    """`dropout(pool(x)) w + b`, one number for a sequence, such as how alike two texts are.

    Arguments and parameters are those of `ClassificationHead` with one class; the axis of classes is dropped.

    Args:
        embed_dim: width of the input.
        dropout: probability of dropping a feature while training.
        pooling: "first", "last", "mean" or "max", as in `Pooler`.
        dense: whether a linear layer and the activation stand before the last layer.
        activation: of that layer.
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: as in `ClassificationHead`.

    Source: Devlin et al. (arXiv 1810.04805), section 4.1 (STS-B).
    """

    @checked
    def __init__(
        self,
        embed_dim: int,
        dropout: float = 0.0,
        pooling: str = "first",
        dense: bool = False,
        activation: str = "tanh",
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        super().__init__(
            embed_dim,
            1,
            dropout,
            pooling,
            dense,
            activation,
            rngs=rngs,
            dtype=dtype,
            param_dtype=param_dtype,
        )

    def __call__(
        self, x: Float[Array, "*b t d"], mask: Bool[Array, "*b t"] | None = None
    ) -> Float[Array, "*b"]:
        """`(t, d)` to a number, or `(b, t, d)` to `(b,)`; the mask as in `Pooler`."""
        return super().__call__(x, mask)[..., 0]
