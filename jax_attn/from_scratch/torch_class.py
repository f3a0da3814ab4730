"""Causal multi-head attention that leaves the work to `torch.nn.MultiheadAttention`'s counterpart."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.from_scratch.torch_multihead import TorchMultiheadAttention
from jax_attn.functional.checks import require_at_most, require_divisible, require_last_dim, require_positive
from jax_attn.nn.primitives import Buffer, Linear


class MultiHeadAttentionTorchClass(nnx.Module):
    """`proj(multihead_attn(x, x, x, attn_mask=mask))`: torch's class, a causal mask, one more projection.

    As in the source, `qkv_bias` also stands for `add_bias_kv`: with it there is a learnt key and value that
    every token attends to. Dropout acts on the attention weights.

    Parameters: those of `TorchMultiheadAttention` as `multihead_attn`; `proj` kernel `(d_out, d_out)` and
    bias `(d_out,)`.
    Buffer: `mask`, boolean `(context_length, context_length)`, True (= masked) above the diagonal.

    Args:
        d_in: width of the input; it must be `d_out`, for the class has no other input projection.
        d_out: width of the output, all heads together.
        num_heads: number of heads; divides `d_out`.
        context_length: the most tokens it takes; fewer use the top-left corner of the mask.
        dropout: probability of dropping an attention weight while training.
        qkv_bias: whether `multihead_attn` has biases, and a learnt key and value.
        need_weights: whether the weights are computed on the way; they are not returned. The output is the
            same; in torch False is the faster way.
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: `d_in` is not `d_out`; a size is below 1; `dropout` is no probability; `num_heads` does
            not divide `d_out`; the input is not `(t, d_in)` or `(b, t, d_in)`, or has more than
            `context_length` tokens.

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
        need_weights: bool = True,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        if d_in != d_out:
            raise ValueError(f"d_in must equal d_out, got d_in={d_in} and d_out={d_out}")
        require_divisible("d_out", d_out, "num_heads", num_heads)
        require_positive("context_length", context_length)
        self.d_in = d_in
        self.context_length = context_length
        self.need_weights = need_weights
        self.multihead_attn = TorchMultiheadAttention(
            d_out,
            num_heads,
            dropout,
            bias=qkv_bias,
            add_bias_kv=qkv_bias,
            batch_first=True,
            rngs=rngs,
            dtype=dtype,
            param_dtype=param_dtype,
        )
        self.proj = Linear(d_out, d_out, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.mask = Buffer(jnp.triu(jnp.ones((context_length, context_length), dtype=bool), k=1))

    def __call__(self, x: Float[Array, "*b t d_in"]) -> Float[Array, "*b t d_out"]:
        """`(t, d_in)` or `(b, t, d_in)` to the same with `d_out`."""
        require_last_dim("x", x.shape, self.d_in)
        tokens = x.shape[-2]
        require_at_most("the number of tokens", tokens, "context_length", self.context_length)

        output, _ = self.multihead_attn(
            x, x, x, attn_mask=self.mask[:tokens, :tokens], need_weights=self.need_weights
        )
        return self.proj(output)
