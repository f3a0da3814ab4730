"""Multi-head attention written in Einstein sums."""

import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.functional.checks import require_at_most, require_divisible, require_last_dim, require_positive
from jax_attn.functional.softmax import masked_softmax
from jax_attn.nn.primitives import Buffer, Dropout, Linear, uniform_within


class MultiHeadAttentionEinsum(nnx.Module):
    """Causal multi-head attention in which every product is an einsum over named axes.

    `out_proj(concat_n(softmax(Q_n K_nᵀ / sqrt(d_out / num_heads) + M) V_n))` with `Q = x W_query + bias_q`,
    and so for `K` and `V`, each cut into `num_heads` heads, and `M` -inf above the diagonal. Dropout acts on
    the attention weights.

    Parameters: `W_query`, `W_key`, `W_value`, raw `(d_in, d_out)`, the same layout as in torch; `bias_q`,
    `bias_k`, `bias_v` `(d_out,)`, with `qkv_bias` alone; `out_proj` kernel `(d_out, d_out)`, bias `(d_out,)`.
    The raw ones start from U(±1/sqrt(d_out)): Kaiming with a = sqrt(5), whose fan-in torch reads off the
    second axis, here `d_out`.
    Buffer: `mask`, `(context_length, context_length)`, 1 above the diagonal and 0 elsewhere.

    Args:
        d_in: width of the input.
        d_out: width of the output, all heads together.
        context_length: the most tokens it takes; fewer use the top-left corner of the mask.
        dropout: probability of dropping an attention weight while training.
        num_heads: number of heads; divides `d_out`.
        qkv_bias: whether queries, keys and values have a bias.
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: a size is below 1; `dropout` is no probability; `num_heads` does not divide `d_out`; the
            input is not `(t, d_in)` or `(b, t, d_in)`, or has more than `context_length` tokens.

    Source: "Build a Large Language Model From Scratch", ch. 3, comparison of multi-head implementations.
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
        self.head_dim = require_divisible("d_out", d_out, "num_heads", num_heads)
        require_positive("d_in", d_in)
        require_positive("context_length", context_length)
        self.d_in = d_in
        self.d_out = d_out
        self.num_heads = num_heads
        self.context_length = context_length
        self.dtype = dtype

        def parameter(*shape: int) -> nnx.Param:
            return nnx.Param(uniform_within(d_out**-0.5)(rngs.params(), shape, param_dtype))

        self.W_query = parameter(d_in, d_out)
        self.W_key = parameter(d_in, d_out)
        self.W_value = parameter(d_in, d_out)
        self.bias_q = parameter(d_out) if qkv_bias else None
        self.bias_k = parameter(d_out) if qkv_bias else None
        self.bias_v = parameter(d_out) if qkv_bias else None
        self.out_proj = Linear(d_out, d_out, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.dropout = Dropout(dropout, rngs=rngs)
        self.mask = Buffer(jnp.triu(jnp.ones((context_length, context_length)), k=1))

    def __call__(self, x: Float[Array, "*b t d_in"]) -> Float[Array, "*b t d_out"]:
        """`(t, d_in)` or `(b, t, d_in)` to the same with `d_out`."""
        require_last_dim("x", x.shape, self.d_in)
        tokens = x.shape[-2]
        require_at_most("the number of tokens", tokens, "context_length", self.context_length)

        queries = self._heads(x, self.W_query, self.bias_q)
        keys = self._heads(x, self.W_key, self.bias_k)
        values = self._heads(x, self.W_value, self.bias_v)

        scores = jnp.einsum("...tnh,...snh->...nts", queries, keys) / self.head_dim**0.5
        weights = masked_softmax(scores, mask=self.mask[:tokens, :tokens] == 0)
        context = jnp.einsum("...nts,...snh->...tnh", self.dropout(weights), values)
        return self.out_proj(context.reshape(*x.shape[:-1], self.d_out))

    def _heads(
        self, x: Float[Array, "*b t d_in"], weight: nnx.Param, bias: nnx.Param | None
    ) -> Float[Array, "*b t n h"]:
        x, weight, bias = promote_dtype((x, weight, bias), dtype=self.dtype)
        projected = jnp.einsum("...td,di->...ti", x, weight)
        if bias is not None:
            projected += bias
        return projected.reshape(*x.shape[:-1], self.num_heads, self.head_dim)
