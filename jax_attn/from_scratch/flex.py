"""Multi-head attention over FlexAttention: mask and scores are functions of positions."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.functional.block_mask import create_block_mask
from jax_attn.functional.checks import require_at_most, require_divisible, require_last_dim, require_positive
from jax_attn.functional.flex import flex_attention
from jax_attn.functional.mask_mods import causal
from jax_attn.functional.reference import reference_attention
from jax_attn.functional.score_mods import ScoreMod
from jax_attn.nn.primitives import Dropout, Linear


class MultiHeadAttentionFlex(nnx.Module):
    """Causal multi-head attention by `flex_attention`, which a score mod may change.

    `proj(concat_n(softmax(score_mod(Q_n K_nᵀ / sqrt(d_out / num_heads)) + M) V_n))`, where
    `[Q | K | V] = qkv(x)`, each third is cut into `num_heads` heads, and `M` is -inf above the diagonal, told
    to `flex_attention` as a block mask, so that blocks above the diagonal are never computed.

    Dropout acts on the attention weights. FlexAttention has none (the source accepts the argument and passes
    over it); here it is computed densely where it is on, and `flex_attention` serves evaluation and
    `dropout=0`.

    Parameters: `qkv` kernel `(d_in, 3 * d_out)`, its bias `(3 * d_out,)` with `qkv_bias`; `proj` kernel
    `(d_out, d_out)` and bias `(d_out,)`.

    Args:
        d_in: width of the input.
        d_out: width of the output, all heads together.
        num_heads: number of heads; divides `d_out`.
        context_length: the most tokens it takes.
        dropout: probability of dropping an attention weight while training.
        qkv_bias: whether `qkv` has a bias.
        score_mod: `(score, b, h, q_idx, kv_idx) -> score`, applied to every scaled score; a call may bring
            another.
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: a size is below 1; `dropout` is no probability; `num_heads` does not divide `d_out`; the
            input is not `(t, d_in)` or `(b, t, d_in)`, or has more than `context_length` tokens; a score mod
            that does not map scalars to a number.

    Source: "Build a Large Language Model From Scratch", ch. 3, comparison of multi-head implementations;
    FlexAttention (arXiv 2412.05496).
    """

    def __init__(
        self,
        d_in: int,
        d_out: int,
        num_heads: int,
        context_length: int,
        dropout: float = 0.0,
        qkv_bias: bool = False,
        score_mod: ScoreMod | None = None,
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
        self.score_mod = score_mod
        self.qkv = Linear(d_in, 3 * d_out, bias=qkv_bias, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.proj = Linear(d_out, d_out, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.dropout = Dropout(dropout, rngs=rngs)

    def __call__(
        self, x: Float[Array, "*b t d_in"], score_mod: ScoreMod | None = None
    ) -> Float[Array, "*b t d_out"]:
        """`(t, d_in)` or `(b, t, d_in)` to the same with `d_out`.

        Args:
            x: the tokens.
            score_mod: in place of the constructor's; arrays that it captures may be traced.
        """
        require_last_dim("x", x.shape, self.d_in)
        tokens = x.shape[-2]
        require_at_most("the number of tokens", tokens, "context_length", self.context_length)
        score_mod = self.score_mod if score_mod is None else score_mod

        # three of (b, t, heads, head_dim); without a batch axis, a batch of one
        qkv = self.qkv(x).reshape(-1, tokens, 3, self.num_heads, self.head_dim)
        queries, keys, values = jnp.unstack(qkv, axis=-3)

        rate = 0.0 if self.dropout.deterministic else self.dropout.rate
        if rate > 0:
            context = reference_attention(
                queries,
                keys,
                values,
                score_mod=score_mod,
                mask_mod=causal,
                dropout_rate=rate,
                dropout_key=self.dropout.rngs(),
            ).output
        else:
            block_mask = create_block_mask(causal, None, None, tokens, tokens)
            context = flex_attention(queries, keys, values, score_mod=score_mod, block_mask=block_mask)
        return self.proj(context.reshape(*x.shape[:-1], self.d_out))
