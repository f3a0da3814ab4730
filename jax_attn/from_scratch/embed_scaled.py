"""Self-attention as the papers of BERT's time write it: one width throughout, biases everywhere."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.functional.checks import require_last_dim, require_positive
from jax_attn.functional.softmax import masked_softmax
from jax_attn.nn.primitives import Linear


class EmbedScaledSelfAttention(nnx.Module):
    """Self-attention whose input, projections and output all have the width of the embedding.

    `softmax(Q Kᵀ / sqrt(embed_dim)) V` with `Q`, `K`, `V` linear in `x`, each with a bias. With one head the
    width of a head is the width of the embedding, so this is the usual scale.

    Parameters: `query`, `key`, `value` kernels `(embed_dim, embed_dim)` and biases `(embed_dim,)`.

    Args:
        embed_dim: width of the input and of the output.
        rngs: source of the initial weights.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: a width below 1, or an input that is not `(t, embed_dim)` or `(b, t, embed_dim)`.

    Source: "Attention Is All You Need" (arXiv 1706.03762), section 3.2.1.
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_positive("embed_dim", embed_dim)
        self.embed_dim = embed_dim
        self.query = Linear(embed_dim, embed_dim, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.key = Linear(embed_dim, embed_dim, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.value = Linear(embed_dim, embed_dim, rngs=rngs, dtype=dtype, param_dtype=param_dtype)

    def __call__(self, x: Float[Array, "*b t embed_dim"]) -> Float[Array, "*b t embed_dim"]:
        """`(t, embed_dim)` or `(b, t, embed_dim)` to the same."""
        require_last_dim("x", x.shape, self.embed_dim)

        scores = self.query(x) @ self.key(x).mT / self.embed_dim**0.5
        return masked_softmax(scores) @ self.value(x)
