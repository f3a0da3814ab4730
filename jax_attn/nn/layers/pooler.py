"""One vector for a sequence: its first token's."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.functional.checks import require_last_dim
from jax_attn.nn.primitives import Linear


class Pooler(nnx.Module):
    """`tanh(x[0] W + b)`.

    Parameters: `dense` kernel `(embed_dim, embed_dim)` and bias.

    Args:
        embed_dim: width of input and output.
        rngs: source of the initial weights.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: the input is not `(t, embed_dim)` or `(b, t, embed_dim)`.

    Source: Devlin et al. (arXiv 1810.04805), appendix A; the dense layer and tanh are in its code.
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        self.embed_dim = embed_dim
        self.dense = Linear(embed_dim, embed_dim, rngs=rngs, dtype=dtype, param_dtype=param_dtype)

    def __call__(self, x: Float[Array, "*b t d"]) -> Float[Array, "*b d"]:
        """`(t, d)` to `(d,)`, or `(b, t, d)` to `(b, d)`."""
        require_last_dim("x", x.shape, self.embed_dim)
        return jnp.tanh(self.dense(x[..., 0, :]))
