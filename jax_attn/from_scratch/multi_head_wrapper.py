"""Several heads, the plain way: run one after the other, outputs side by side."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.from_scratch.causal import CausalAttention
from jax_attn.functional.checks import require_positive
from jax_attn.nn.primitives import Linear


class MultiHeadAttentionWrapper(nnx.Module):
    """`num_heads` independent `CausalAttention` heads over the same input, their outputs concatenated.

    `[head_0(x), head_1(x), ...]` over the last axis, then with `out_proj` a linear layer that mixes the
    heads. Each head has its own projections to `d_out`, so the output is `num_heads * d_out` wide.

    Parameters: `heads.i.W_query`, `heads.i.W_key`, `heads.i.W_value` kernels `(d_in, d_out)`, biases
    `(d_out,)` with `qkv_bias`; with `out_proj` also `out_proj` kernel
    `(num_heads * d_out, num_heads * d_out)` and bias `(num_heads * d_out,)`.
    Buffers: `heads.i.mask`, `(context_length, context_length)`, 1 above the diagonal and 0 elsewhere.

    Args:
        d_in: width of the input.
        d_out: width of one head's output.
        context_length: the most tokens it takes; fewer use the top-left corner of the mask.
        dropout: probability of dropping an attention weight while training.
        num_heads: number of heads.
        qkv_bias: whether the heads' projections have a bias.
        out_proj: whether a linear layer follows the concatenation.
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: a size below 1, a `dropout` that is no probability, or an input that is not `(t, d_in)` or
            `(b, t, d_in)` or has more than `context_length` tokens.

    Source: "Build a Large Language Model From Scratch", section 3.6.1; `out_proj` as in its comparison of
    multi-head implementations.
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        context_length: int,
        dropout: float,
        num_heads: int,
        qkv_bias: bool = False,
        out_proj: bool = False,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_positive("num_heads", num_heads)
        self.heads = nnx.List(
            CausalAttention(
                d_in,
                d_out,
                context_length,
                dropout,
                qkv_bias,
                rngs=rngs,
                dtype=dtype,
                param_dtype=param_dtype,
            )
            for _ in range(num_heads)
        )
        width = num_heads * d_out
        self.out_proj = (
            Linear(width, width, rngs=rngs, dtype=dtype, param_dtype=param_dtype) if out_proj else None
        )

    def __call__(self, x: Float[Array, "*b t d_in"]) -> Float[Array, "*b t width"]:
        """`(t, d_in)` or `(b, t, d_in)` to the same with `num_heads * d_out`."""
        context = jnp.concatenate([head(x) for head in self.heads], axis=-1)
        return context if self.out_proj is None else self.out_proj(context)
