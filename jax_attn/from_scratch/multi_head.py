"""Several heads in one: project once, then split the width among the heads."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.functional.checks import (
    require_at_most,
    require_divisible,
    require_last_dim,
    require_positive,
)
from jax_attn.functional.softmax import masked_softmax
from jax_attn.nn.primitives import Buffer, Dropout, Linear


class MultiHeadAttention(nnx.Module):
    """Causal multi-head attention with one projection each for queries, keys and values.

    `[head_0, head_1, ...] out_proj` with `head_i = softmax(Q_i K_iᵀ / sqrt(head_dim) + M) V_i`, where `Q_i`,
    `K_i`, `V_i` are columns `i * head_dim` to `(i + 1) * head_dim` of `x W_query`, `x W_key`, `x W_value`,
    and `M` is -inf above the diagonal. The heads of `MultiHeadAttentionWrapper`, of width `head_dim` and
    laid side by side in three large matrices, compute the same. Dropout acts on the attention weights.

    Parameters: `W_query`, `W_key`, `W_value` kernels `(d_in, d_out)`, biases `(d_out,)` with `qkv_bias`;
    `out_proj` kernel `(d_out, d_out)` and bias `(d_out,)`.
    Buffer: `mask`, `(context_length, context_length)`, 1 above the diagonal and 0 elsewhere.

    Args:
        d_in: width of the input.
        d_out: width of the output, shared by the heads: `head_dim = d_out / num_heads`.
        context_length: the most tokens it takes; fewer use the top-left corner of the mask.
        dropout: probability of dropping an attention weight while training.
        num_heads: number of heads.
        qkv_bias: whether the three projections have a bias.
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: `num_heads` does not divide `d_out`, a size is below 1, `dropout` is no probability, or
            the input is not `(t, d_in)` or `(b, t, d_in)` or has more than `context_length` tokens.

    Source: "Build a Large Language Model From Scratch", section 3.6.2.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        context_length: int,
        dropout: float,
        num_heads: int,
        qkv_bias: bool = False,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_positive("d_in", d_in)
        require_positive("context_length", context_length)
        self.d_in = d_in
        self.d_out = d_out
        self.context_length = context_length
        self.num_heads = num_heads
        self.head_dim = require_divisible("d_out", d_out, "num_heads", num_heads)
        self.W_query = Linear(d_in, d_out, bias=qkv_bias, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.W_key = Linear(d_in, d_out, bias=qkv_bias, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.W_value = Linear(d_in, d_out, bias=qkv_bias, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.out_proj = Linear(d_out, d_out, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.dropout = Dropout(dropout, rngs=rngs)
        self.mask = Buffer(jnp.triu(jnp.ones((context_length, context_length)), k=1))

    def __call__(self, x: Float[Array, "*b t d_in"]) -> Float[Array, "*b t d_out"]:
        """`(t, d_in)` or `(b, t, d_in)` to the same with `d_out`."""
        require_last_dim("x", x.shape, self.d_in)
        *batch, tokens, _ = x.shape
        require_at_most("the number of tokens", tokens, "context_length", self.context_length)

        # (*b, t, d_out) is cut into (*b, t, heads, head_dim)
        queries = self.W_query(x).reshape(*batch, tokens, self.num_heads, self.head_dim)
        keys = self.W_key(x).reshape(*batch, tokens, self.num_heads, self.head_dim)
        values = self.W_value(x).reshape(*batch, tokens, self.num_heads, self.head_dim)

        # (*b, heads, t, head_dim): a head is now one more batch axis
        queries, keys, values = (a.swapaxes(-3, -2) for a in (queries, keys, values))
        scores = queries @ keys.mT / self.head_dim**0.5
        weights = masked_softmax(scores, mask=self.mask[:tokens, :tokens] == 0)
        context = self.dropout(weights) @ values

        return self.out_proj(context.swapaxes(-3, -2).reshape(*batch, tokens, self.d_out))
