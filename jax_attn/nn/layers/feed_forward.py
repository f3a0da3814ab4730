"""The two linear layers that every token goes through on its own."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.functional.checks import require_last_dim
from jax_attn.nn.primitives import Dropout, Linear


def gelu(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """`x · Φ(x)`, with the normal distribution's `Φ(x) = (1 + erf(x / √2)) / 2`; in float32 for 16 bits.

    `jax.nn.gelu(x, approximate=False)` writes Φ with `erfc`, which takes more than twice as long on CPU.

    Source: Hendrycks and Gimpel (arXiv 1606.08415).
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return (wide * 0.5 * (1.0 + jax.lax.erf(wide * 0.5**0.5))).astype(x.dtype)


def gelu_tanh(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """`x/2 · (1 + tanh(u))`, `u = √(2/π) (x + 0.044715 x³)`: up to 4.7e-4 away from `gelu`.

    Written with the sigmoid, `(1 + tanh(u)) / 2 = σ(2u)`, which keeps its digits where tanh is close to -1.
    Computed in float32 for 16 bits.

    Source: Hendrycks and Gimpel (arXiv 1606.08415), section 2.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    u = (2 / math.pi) ** 0.5 * (wide + 0.044715 * wide**3)
    return (wide * jax.nn.sigmoid(2 * u)).astype(x.dtype)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "gelu_new": gelu_tanh,  # the two names of the tanh form in config.json files
    "gelu_pytorch_tanh": gelu_tanh,
    "relu": jax.nn.relu,
}


class FeedForward(nnx.Module):
    """`dropout(activation(x W_up + b_up) W_down + b_down)`, for each token alone.

    Parameters: `up` kernel `(embed_dim, hidden_dim)`, `down` kernel `(hidden_dim, embed_dim)`, and their
    biases.

    Args:
        embed_dim: width of input and output.
        hidden_dim: width in between, usually `4 * embed_dim`.
        activation: "gelu" (with erf), "gelu_tanh" (also "gelu_new", "gelu_pytorch_tanh") or "relu".
        dropout: probability of dropping an output while training.
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: the activation is not known, or the input is not `(t, embed_dim)` or `(b, t, embed_dim)`.

    Source: Vaswani et al. (arXiv 1706.03762), section 3.3.
    """

    def __init__(
        self,
        embed_dim: int,
        hidden_dim: int,
        activation: str = "gelu",
        dropout: float = 0.0,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
        self.embed_dim = embed_dim
        self.activation = activation
        self.up = Linear(embed_dim, hidden_dim, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.down = Linear(hidden_dim, embed_dim, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.dropout = Dropout(dropout, rngs=rngs)

    def __call__(self, x: Float[Array, "*b t d"]) -> Float[Array, "*b t d"]:
        """`(t, d)` or `(b, t, d)` to the same shape."""
        require_last_dim("x", x.shape, self.embed_dim)
        return self.dropout(self.down(ACTIVATIONS[self.activation](self.up(x))))
