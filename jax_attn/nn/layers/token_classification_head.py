"""From a sequence of vectors to one score for each class and token."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.functional.checks import require_last_dim, require_positive
from jax_attn.nn.primitives import Dropout, Linear


class TokenClassificationHead(nnx.Module):
    """`dropout(x) W + b` for each token, such as whether it belongs to a name.

    Parameters: `linear` kernel `(embed_dim, num_classes)` and bias.

    Args:
        embed_dim: width of the input.
        num_classes: number of classes.
        dropout: probability of dropping a feature while training.
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: `num_classes` is not positive, or the input not `(t, embed_dim)` or `(b, t, embed_dim)`.

    Source: Devlin et al. (arXiv 1810.04805), section 5.3.
    """

    def __init__(
        self,
        embed_dim: int,
        num_classes: int,
        dropout: float = 0.0,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_positive("num_classes", num_classes)
        self.embed_dim = embed_dim
        self.dropout = Dropout(dropout, rngs=rngs)
        self.linear = Linear(embed_dim, num_classes, rngs=rngs, dtype=dtype, param_dtype=param_dtype)

    def __call__(self, x: Float[Array, "*b t d"]) -> Float[Array, "*b t c"]:
        """`(t, d)` to logits `(t, num_classes)`, or the same with a batch axis before."""
        require_last_dim("x", x.shape, self.embed_dim)
        return self.linear(self.dropout(x))
