"""Self-attention with trained weights, held in linear layers."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.functional.checks import require_last_dim, require_positive
from jax_attn.functional.softmax import masked_softmax
from jax_attn.nn.primitives import Linear


class SelfAttentionV2(nnx.Module):
    """`SelfAttentionV1` with linear layers: a better start for training, and biases if wanted.

    `softmax(Q Kᵀ / sqrt(d_out)) V` with `Q = x W_query`, `K = x W_key`, `V = x W_value`.

    Parameters: `W_query`, `W_key`, `W_value` kernels `(d_in, d_out)`, biases `(d_out,)` with `qkv_bias`. In
    torch a linear layer's weight is `(d_out, d_in)`: there V1's matrices become V2's by transposing, here
    they are the kernels as they are.

    Args:
        d_in: width of the input.
        d_out: width of the output.
        qkv_bias: whether the three projections have a bias.
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
        qkv_bias: bool = False,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_positive("d_in", d_in)
        require_positive("d_out", d_out)
        self.d_in = d_in
        self.d_out = d_out
        self.W_query = Linear(d_in, d_out, bias=qkv_bias, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.W_key = Linear(d_in, d_out, bias=qkv_bias, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.W_value = Linear(d_in, d_out, bias=qkv_bias, rngs=rngs, dtype=dtype, param_dtype=param_dtype)

    def __call__(self, x: Float[Array, "*b t d_in"]) -> Float[Array, "*b t d_out"]:
        """`(t, d_in)` or `(b, t, d_in)` to the same with `d_out`."""
        require_last_dim("x", x.shape, self.d_in)

        queries, keys, values = self.W_query(x), self.W_key(x), self.W_value(x)
        weights = masked_softmax(queries @ keys.mT / self.d_out**0.5)
        return weights @ values
