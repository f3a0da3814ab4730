"""Attention whose weights are the difference of two softmaxes."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.functional.attention import Implementation
from jax_attn.functional.checks import checked, require_divisible
from jax_attn.functional.dtypes import accumulator
from jax_attn.functional.logical_axes import LogicalAxes
from jax_attn.functional.normalize import rms_normalize
from jax_attn.functional.sharding import in_auto_axes
from jax_attn.nn.attention.multi_head import MultiHeadAttention, Tokens
from jax_attn.nn.positions.attention_positions import AttentionPositions


class DifferentialAttention(MultiHeadAttention):
    """Differential attention: noise that two softmaxes have in common cancels.

    `head_i = (1 - λ0) · norm((softmax(Q1_i K1_iᵀ) - λ softmax(Q2_i K2_iᵀ)) V_i)`, each softmax over scaled scores,
    with `λ = exp(λ_q1 · λ_k1) - exp(λ_q2 · λ_k2) + λ0`, `λ0 = 0.8 - 0.6 exp(-0.3 layer_index)`, and `norm` the RMS
    norm of each head, without a scale. Two softmaxes share a value twice as wide: of `n` query heads `i` and
    `i + n / 2` make a pair, and likewise of key and value heads. The weights `(b, num_heads / 2, t, s)` that are
    returned are the differences.

    Parameters: those of `MultiHeadAttention`, and `lambda_q1`, `lambda_k1`, `lambda_q2`, `lambda_k2` `(head_dim,)`.

    Args:
        embed_dim: width of input and output.
        num_heads: number of softmaxes, two of which make a head: even.
        num_kv_heads: number of key/value heads; even, and it divides `num_heads`. None is `num_heads`.
        dropout: probability of dropping a weight of a softmax while training.
        bias: whether the four projections have a bias, or which of them: some of "q", "k", "v", "out".
        head_dim: width of a query or key; None is `embed_dim / num_heads`.
        is_causal: whether a query sees nothing after itself.
        positions: how positions act on the scores, from `jax_attn.nn.positions`; None is not at all.
        scale: factor of the scores; None is `head_dim^-1/2`.
        layer_index: which layer of the model this is, counted from 0.
        norm_eps: epsilon of the norm.
        implementation: which one of `dot_product_attention` computes; None is the best.
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: heads that are odd or do not divide, positions that act on the values, and what
            `MultiHeadAttention` refuses.

    Source: Ye et al. (arXiv 2410.05258), section 2.1. Order of the heads, and a norm without a scale, as
        transformers' DiffLlama; in the authors' code neighbours make a pair, and the norm has a scale.
    """

    logical_axes: ClassVar[LogicalAxes] = {
        **MultiHeadAttention.logical_axes,
        "lambda_q1": ("head_dim",),
        "lambda_k1": ("head_dim",),
        "lambda_q2": ("head_dim",),
        "lambda_k2": ("head_dim",),
    }

    @checked
    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        dropout: float = 0.0,
        bias: bool | Sequence[str] = True,
        head_dim: int | None = None,
        is_causal: bool = False,
        positions: AttentionPositions | None = None,
        scale: float | None = None,
        layer_index: int = 0,
        norm_eps: float = 1e-5,
        *,
        implementation: Implementation | None = None,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        super().__init__(
            embed_dim,
            num_heads,
            num_kv_heads,
            dropout,
            bias,
            head_dim,
            is_causal=is_causal,
            positions=positions,
            scale=scale,
            implementation=implementation,
            rngs=rngs,
            dtype=dtype,
            param_dtype=param_dtype,
        )
        require_divisible("num_heads", num_heads, "the two softmaxes of a head", 2)
        require_divisible("num_kv_heads", self.num_kv_heads, "the two softmaxes of a head", 2)
        if positions is not None and positions.needs_weights:
            raise ValueError("positions must not act on the values, which two softmaxes share here")
        self.lambda_init = 0.8 - 0.6 * math.exp(-0.3 * layer_index)
        self.norm_eps = norm_eps
        self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2 = (
            nnx.Param(0.1 * rngs.params.normal((self.head_dim,), param_dtype)) for _ in range(4)
        )

    def difference(self, of_both: Float[Array, "..."], axis: int) -> Float[Array, "..."]:
        """`first - λ second` of the two halves of an axis over heads, in float32 at least."""
        wide = accumulator(of_both.dtype)
        q1, k1, q2, k2 = (
            x[...].astype(wide) for x in (self.lambda_q1, self.lambda_k1, self.lambda_q2, self.lambda_k2)
        )
        factor = jnp.exp(jnp.sum(q1 * k1)) - jnp.exp(jnp.sum(q2 * k2)) + self.lambda_init

        def run(given: tuple[Array, Array]) -> tuple[Array]:
            first, second = jnp.split(given[0].astype(wide), 2, axis=axis)
            return (first - given[1] * second,)

        # The halves of what is dealt out lie on other devices.
        (result,) = in_auto_axes(run, (of_both, factor), of_both, ("BTPH" if axis == 2 else "BPQS",))
        return result

    def _attention(
        self, query: Array, tokens: Tokens, return_weights: bool, options: dict[str, Any]
    ) -> tuple[Array, Array | None]:
        """The heads' outputs, and the differences of their weights if asked for."""

        def of_both(value: Float[Array, "B S K H"]) -> tuple[Float[Array, "B S K 2H"]]:
            pairs = jnp.concatenate(jnp.split(value, 2, axis=2), axis=-1)
            return (jnp.tile(pairs, (1, 1, 2, 1)),)

        (value,) = in_auto_axes(of_both, tokens.value, tokens.value, ("BTNH",))
        output, weights = super()._attention(query, tokens._replace(value=value), return_weights, options)
        heads = rms_normalize(self.difference(output, axis=2), self.norm_eps) * (1 - self.lambda_init)
        if weights is not None:
            weights = self.difference(weights, axis=1).astype(weights.dtype)
        return heads.astype(output.dtype), weights
