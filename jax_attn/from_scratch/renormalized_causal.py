"""Causal attention the first way that comes to mind: hide the future after the softmax."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.functional.checks import require_at_most, require_last_dim, require_positive
from jax_attn.functional.normalize import normalize_rows
from jax_attn.functional.softmax import masked_softmax
from jax_attn.nn.primitives import Buffer, Dropout, Linear


class RenormalizedCausalAttention(nnx.Module):
    """`CausalAttention` that masks the weights after the softmax and makes each row sum to 1 again.

    `W V` with `A = softmax(Q Kᵀ / sqrt(d_out))`, `W[i, j] = A[i, j] / sum(A[i, k] for k <= i)` for `j <= i`
    and 0 elsewhere. The softmax's own denominator cancels, so this equals `CausalAttention`.

    It is so on paper. The future still sets the scale of the softmax: where a hidden score exceeds every
    visible one by more than the range of `exp` (about 103 in float32, 745 in float64) all visible weights
    underflow to 0 and nothing is left to divide by. Such a row gives output 0 and gradients 0, where
    `CausalAttention` is still exact; a little before that, the visible weights lose digits. This is why the
    rungs after it mask the scores.

    Parameters: `W_query`, `W_key`, `W_value` kernels `(d_in, d_out)`, biases `(d_out,)` with `qkv_bias`.
    Buffer: `mask`, `(context_length, context_length)`, 1 above the diagonal and 0 elsewhere.

    Args:
        d_in: width of the input.
        d_out: width of the output.
        context_length: the most tokens it takes; fewer use the top-left corner of the mask.
        dropout: probability of dropping an attention weight while training.
        qkv_bias: whether the three projections have a bias.
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: a size below 1, a `dropout` that is no probability, or an input that is not `(t, d_in)` or
            `(b, t, d_in)` or has more than `context_length` tokens.

    Source: "Build a Large Language Model From Scratch", section 3.5.1.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        context_length: int,
        dropout: float,
        qkv_bias: bool = False,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_positive("d_in", d_in)
        require_positive("d_out", d_out)
        require_positive("context_length", context_length)
        self.d_in = d_in
        self.d_out = d_out
        self.context_length = context_length
        self.W_query = Linear(d_in, d_out, bias=qkv_bias, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.W_key = Linear(d_in, d_out, bias=qkv_bias, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.W_value = Linear(d_in, d_out, bias=qkv_bias, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.dropout = Dropout(dropout, rngs=rngs)
        self.mask = Buffer(jnp.triu(jnp.ones((context_length, context_length)), k=1))

    def __call__(self, x: Float[Array, "*b t d_in"]) -> Float[Array, "*b t d_out"]:
        """`(t, d_in)` or `(b, t, d_in)` to the same with `d_out`."""
        require_last_dim("x", x.shape, self.d_in)
        tokens = x.shape[-2]
        require_at_most("the number of tokens", tokens, "context_length", self.context_length)

        queries, keys, values = self.W_query(x), self.W_key(x), self.W_value(x)
        weights = masked_softmax(queries @ keys.mT / self.d_out**0.5)
        weights = jnp.where(self.mask[:tokens, :tokens] == 0, weights, 0)
        return self.dropout(normalize_rows(weights)) @ values
