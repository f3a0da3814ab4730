"""Multi-head attention whose queries, keys and values come from one matrix product."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.functional.checks import require_at_most, require_divisible, require_last_dim, require_positive
from jax_attn.functional.softmax import masked_softmax
from jax_attn.nn.primitives import Buffer, Dropout, Linear


class MultiHeadAttentionCombinedQKV(nnx.Module):
    """Causal multi-head attention with one fused projection in place of three.

    `proj(concat_n(softmax(Q_n K_nᵀ / sqrt(d_out / num_heads) + M) V_n))`, where `[Q | K | V] = qkv(x)`, each
    third is cut into `num_heads` heads, and `M` is -inf above the diagonal. Dropout acts on the weights.

    Parameters: `qkv` kernel `(d_in, 3 * d_out)`, its bias `(3 * d_out,)` with `qkv_bias`; `proj` kernel
    `(d_out, d_out)` and bias `(d_out,)`.
    Buffer: `mask`, `(context_length, context_length)`, 1 above the diagonal and 0 elsewhere.

    Args:
        d_in: width of the input.
        d_out: width of the output, all heads together.
        num_heads: number of heads; divides `d_out`.
        context_length: the most tokens it takes; fewer use the top-left corner of the mask.
        dropout: probability of dropping an attention weight while training.
        qkv_bias: whether `qkv` has a bias.
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
        num_heads: int,
        context_length: int,
        dropout: float = 0.0,
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
        self.qkv = Linear(d_in, 3 * d_out, bias=qkv_bias, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.proj = Linear(d_out, d_out, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.dropout = Dropout(dropout, rngs=rngs)
        self.mask = Buffer(jnp.triu(jnp.ones((context_length, context_length)), k=1))

    def __call__(self, x: Float[Array, "*b t d_in"]) -> Float[Array, "*b t d_out"]:
        """`(t, d_in)` or `(b, t, d_in)` to the same with `d_out`."""
        require_last_dim("x", x.shape, self.d_in)
        tokens = x.shape[-2]
        require_at_most("the number of tokens", tokens, "context_length", self.context_length)

        # (*b, t, 3 * d_out) -> (*b, t, 3, heads, head_dim) -> three of (*b, heads, t, head_dim)
        qkv = self.qkv(x).reshape(*x.shape[:-1], 3, self.num_heads, self.head_dim)
        queries, keys, values = jnp.unstack(qkv.swapaxes(-4, -2), axis=-3)

        scores = queries @ keys.mT / self.head_dim**0.5
        weights = masked_softmax(scores, mask=self.mask[:tokens, :tokens] == 0)
        context = self.dropout(weights) @ values
        return self.proj(context.swapaxes(-3, -2).reshape(*x.shape[:-1], self.d_out))
