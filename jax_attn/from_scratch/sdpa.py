"""Multi-head attention over the fused scaled-dot-product kernel."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.functional.attention import dot_product_attention
from jax_attn.functional.checks import require_at_most, require_divisible, require_last_dim, require_positive
from jax_attn.nn.primitives import Dropout, Linear


class MultiHeadAttentionSDPA(nnx.Module):
    """Causal multi-head attention whose inner part is one call of `dot_product_attention`.

    `proj(concat_n(softmax(Q_n K_nᵀ / sqrt(d_out / num_heads) + M) V_n))`, where `[Q | K | V] = qkv(x)`, each
    third is cut into `num_heads` heads, and `M` is -inf above the diagonal. The kernel knows `M` by the name
    of `is_causal`, so that no mask has to exist in memory. Dropout acts on the attention weights.

    Parameters: `qkv` kernel `(d_in, 3 * d_out)`, its bias `(3 * d_out,)` with `qkv_bias`; `proj` kernel
    `(d_out, d_out)` and bias `(d_out,)`.

    Args:
        d_in: width of the input.
        d_out: width of the output, all heads together.
        num_heads: number of heads; divides `d_out`.
        context_length: the most tokens it takes.
        dropout: probability of dropping an attention weight while training.
        qkv_bias: whether `qkv` has a bias.
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: a size is below 1; `dropout` is no probability; `num_heads` does not divide `d_out`; the
            input is not `(t, d_in)` or `(b, t, d_in)`, or has more than `context_length` tokens.

    Source: "Build a Large Language Model From Scratch", ch. 3, comparison of multi-head implementations;
    `torch.nn.functional.scaled_dot_product_attention`.
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

    def __call__(self, x: Float[Array, "*b t d_in"]) -> Float[Array, "*b t d_out"]:
        """`(t, d_in)` or `(b, t, d_in)` to the same with `d_out`."""
        require_last_dim("x", x.shape, self.d_in)
        tokens = x.shape[-2]
        require_at_most("the number of tokens", tokens, "context_length", self.context_length)

        # three of (*b, t, heads, head_dim)
        qkv = self.qkv(x).reshape(*x.shape[:-1], 3, self.num_heads, self.head_dim)
        queries, keys, values = jnp.unstack(qkv, axis=-3)

        rate = 0.0 if self.dropout.deterministic else self.dropout.rate
        context = dot_product_attention(
            queries,
            keys,
            values,
            is_causal=True,
            dropout_rate=rate,
            dropout_key=self.dropout.rngs() if rate > 0 else None,
        )
        return self.proj(context.reshape(*x.shape[:-1], self.d_out))
