"""Self-attention with trained weights, held as plain matrices."""

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.functional.checks import require_last_dim, require_positive
from jax_attn.functional.softmax import masked_softmax


class SelfAttentionV1(nnx.Module):
    """Scaled dot-product self-attention whose three projections are raw matrices.

    `softmax(Q Kᵀ / sqrt(d_out)) V` with `Q = x W_query`, `K = x W_key`, `V = x W_value`.

    Parameters: `W_query`, `W_key`, `W_value`, each `(d_in, d_out)` and drawn from U(0, 1). They multiply from
    the right in torch too, so a weight is the same array on both sides.

    Args:
        d_in: width of the input.
        d_out: width of the output.
        rngs: source of the initial weights.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: a width below 1, or an input that is not `(t, d_in)` or `(b, t, d_in)`.

    Source: "Build a Large Language Model From Scratch", section 3.4.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_positive("d_in", d_in)
        require_positive("d_out", d_out)
        self.d_in = d_in
        self.d_out = d_out
        self.dtype = dtype
        self.W_query = nnx.Param(jax.random.uniform(rngs.params(), (d_in, d_out), param_dtype))
        self.W_key = nnx.Param(jax.random.uniform(rngs.params(), (d_in, d_out), param_dtype))
        self.W_value = nnx.Param(jax.random.uniform(rngs.params(), (d_in, d_out), param_dtype))

    def __call__(self, x: Float[Array, "*b t d_in"]) -> Float[Array, "*b t d_out"]:
        """`(t, d_in)` or `(b, t, d_in)` to the same with `d_out`."""
        require_last_dim("x", x.shape, self.d_in)
        x, w_query, w_key, w_value = promote_dtype(
            (x, self.W_query[...], self.W_key[...], self.W_value[...]), dtype=self.dtype
        )

        queries, keys, values = x @ w_query, x @ w_key, x @ w_value
        weights = masked_softmax(queries @ keys.mT / self.d_out**0.5)
        return weights @ values
