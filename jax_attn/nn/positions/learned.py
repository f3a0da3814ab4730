"""Positions as a table that is learned."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.functional.checks import require_at_most, require_last_dim
from jax_attn.nn.primitives import Embedding


class LearnedPositions(Embedding):
    """Adds a learned vector to each token, one per position: `x[t] + embedding[t]`.

    Parameters: `embedding` `(num_embeddings, embedding_dim)`, drawn from N(0, 1). The first argument is
    the most tokens that it takes.

    Raises:
        ValueError: the input is not `(t, d)` or `(b, t, d)`, or has more tokens than the table has rows.

    Source: Devlin et al. (arXiv 1810.04805), section 3; the idea is Gehring et al.'s (arXiv 1705.03122).
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        super().__init__(num_embeddings, embedding_dim, rngs=rngs, dtype=dtype, param_dtype=param_dtype)

    # Only the table is inherited: this is called with vectors, not with ids.
    def __call__(self, x: Float[Array, "*b t d"]) -> Float[Array, "*b t d"]:  # ty: ignore[incompatible-method-override]
        """`(t, d)` or `(b, t, d)` to the same shape."""
        require_last_dim("x", x.shape, self.features)
        tokens = x.shape[-2]
        require_at_most("the number of tokens", tokens, "num_embeddings", self.num_embeddings)
        return x + super().__call__(jnp.arange(tokens))
