"""Positions as waves, with nothing to learn."""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.functional.checks import require_at_most, require_last_dim, require_positive


class SinusoidalPositions(nnx.Module):
    """Adds sines and cosines of the position to each token, wavelengths from 2π to 2π · 10000.

    `x[t, 2i] + sin(t / 10000^(2i / d))` and `x[t, 2i+1] + cos(t / 10000^(2i / d))`.

    It has neither parameters nor buffers: the table is computed in float64 while tracing, and becomes a
    constant of the compiled program in the input's dtype.

    Args:
        num_embeddings: the most tokens it takes.
        embedding_dim: width of the input.
        rngs: not used; taken so that every kind of position is built alike.
        dtype: dtype of the output; None is the input's.
        param_dtype: not used, as `rngs`.

    Raises:
        ValueError: the input is not `(t, d)` or `(b, t, d)`, or has more than `num_embeddings` tokens.

    Source: Vaswani et al. (arXiv 1706.03762), section 3.5.
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        *,
        rngs: nnx.Rngs | None = None,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_positive("num_embeddings", num_embeddings)
        require_positive("embedding_dim", embedding_dim)
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.dtype = dtype

    def __call__(self, x: Float[Array, "*b t d"]) -> Float[Array, "*b t d"]:
        """`(t, d)` or `(b, t, d)` to the same shape."""
        require_last_dim("x", x.shape, self.embedding_dim)
        tokens = x.shape[-2]
        require_at_most("the number of tokens", tokens, "num_embeddings", self.num_embeddings)
        x = x if self.dtype is None else x.astype(self.dtype)
        return x + jnp.asarray(sinusoids(tokens, self.embedding_dim), x.dtype)


def sinusoids(tokens: int, width: int) -> np.ndarray:
    """The table `(tokens, width)` of the formula above, in float64."""
    column = np.arange(width)
    angles = np.arange(tokens)[:, None] / 10000.0 ** (2 * (column // 2) / width)
    return np.where(column % 2 == 0, np.sin(angles), np.cos(angles))
