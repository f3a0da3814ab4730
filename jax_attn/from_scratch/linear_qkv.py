"""Where queries, keys and values come from: three linear layers over the same tokens."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.functional.checks import require_last_dim, require_positive
from jax_attn.nn.primitives import Linear


class LinearQKV(nnx.Module):
    """The three projections of self-attention, alone.

    `Q = x W_q + b_q`, `K = x W_k + b_k`, `V = x W_v + b_v`: twelve tokens of width 768 become three times
    `(12, 768)`.

    Parameters: `W_q`, `W_k`, `W_v` kernels `(d_model, d_model)` and biases `(d_model,)`.

    Args:
        d_model: width of the input and of each output.
        rngs: source of the initial weights.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: a width below 1, or an input that is not `(t, d_model)` or `(b, t, d_model)`.

    Source: "Attention Is All You Need" (arXiv 1706.03762), section 3.2.
    """

    def __init__(
        self,
        d_model: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_positive("d_model", d_model)
        self.d_model = d_model
        self.W_q = Linear(d_model, d_model, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.W_k = Linear(d_model, d_model, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.W_v = Linear(d_model, d_model, rngs=rngs, dtype=dtype, param_dtype=param_dtype)

    def __call__(
        self, x: Float[Array, "*b t d_model"]
    ) -> tuple[Float[Array, "*b t d_model"], Float[Array, "*b t d_model"], Float[Array, "*b t d_model"]]:
        """`(t, d_model)` or `(b, t, d_model)` to queries, keys and values, each of the same shape."""
        require_last_dim("x", x.shape, self.d_model)
        return self.W_q(x), self.W_k(x), self.W_v(x)
