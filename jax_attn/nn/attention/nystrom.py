"""Attention in linear time, by way of a few landmarks among queries and keys."""

import functools
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jax_attn.functional.checks import (
    checked,
    require_boolean_mask,
    require_divisible,
    require_last_dim,
    require_positive,
)
from jax_attn.functional.dtypes import accumulator
from jax_attn.functional.logical_axes import LogicalAxes
from jax_attn.functional.nystrom import iterative_inverse, segment_means
from jax_attn.functional.sharding import in_auto_axes
from jax_attn.functional.softmax import masked_softmax
from jax_attn.nn.attention.attend import call_unbatched
from jax_attn.nn.attention.weights import keep_weights, sees_weights
from jax_attn.nn.primitives import Linear, uniform_within


class NystromAttention(nnx.Module):
    """Multi-head attention `softmax(Q K̃ᵀ) softmax(Q̃ K̃ᵀ)⁺ softmax(Q̃ Kᵀ) V`, products over `sqrt(head_dim)`.

    The landmarks `Q̃` and `K̃` are the means of segments of neighbours. There are at most `num_landmarks`
    segments, all of one length but the last; from as many landmarks as tokens on, this is plain softmax
    attention. The inverse is iterated, each head and sequence by itself (the authors' code can also begin
    with one scale for the whole batch, whose sequences then change one another's outputs). With
    `conv_kernel_size` a convolution of the values over the tokens, one filter for each head, is added to the
    heads. There is no causal form: a landmark holds later tokens.

    Masked tokens are left out of the landmarks, the keys and the convolution; transformers' Nystromformer masks
    the keys alone.

    Parameters: `q_proj`, `k_proj`, `v_proj` and `out_proj` kernels `(embed_dim, embed_dim)`, and a bias each
    with `bias`; `conv` kernel `(conv_kernel_size, 1, 1, num_heads)`.

    Args:
        embed_dim: width of input and output.
        num_heads: number of heads; it divides `embed_dim`.
        num_landmarks: the most landmarks.
        conv_kernel_size: how many tokens the convolution sees, an odd number; None is no convolution.
        iterations: of the inverse.
        bias: whether the four projections have a bias.
        rngs: source of the initial weights.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: `num_heads` does not divide `embed_dim`, a size is below 1, the kernel is even, the input
            has another width or rank, or the mask is not boolean or does not fit.

    Source: Xiong et al. (arXiv 2102.03902).
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "q_proj": ("embed", "heads"),
        "k_proj": ("embed", "heads"),
        "v_proj": ("embed", "heads"),
        "out_proj": ("heads", "embed"),
        "conv": ("heads",),
    }

    @checked
    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_landmarks: int = 64,
        conv_kernel_size: int | None = None,
        iterations: int = 6,
        bias: bool = True,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = require_divisible("embed_dim", embed_dim, "num_heads", num_heads)
        self.num_landmarks = num_landmarks
        self.iterations = iterations
        require_positive("num_landmarks", num_landmarks)
        require_positive("iterations", iterations)
        if conv_kernel_size is not None and not (conv_kernel_size > 0 and conv_kernel_size % 2):
            raise ValueError(f"conv_kernel_size must be odd and above 0, got {conv_kernel_size}")

        def linear() -> Linear:
            return Linear(embed_dim, embed_dim, bias=bias, rngs=rngs, dtype=dtype, param_dtype=param_dtype)

        self.q_proj, self.k_proj, self.v_proj, self.out_proj = linear(), linear(), linear(), linear()
        self.conv = (
            None
            if conv_kernel_size is None
            else nnx.Conv(
                num_heads,
                num_heads,
                (conv_kernel_size, 1),
                padding=((conv_kernel_size // 2, conv_kernel_size // 2), (0, 0)),
                feature_group_count=num_heads,
                use_bias=False,
                kernel_init=uniform_within(conv_kernel_size**-0.5),
                dtype=dtype,
                param_dtype=param_dtype,
                rngs=rngs,
            )
        )

    def __call__(
        self,
        x: Float[Array, "*b t d"],
        mask: Bool[Array, "*b t"] | None = None,
        *,
        return_weights: bool = False,
    ) -> Any:
        """Every token attends to every token.

        Args:
            x: `(b, t, embed_dim)`, or `(t, embed_dim)`, and then the mask has no batch axis either.
            mask: True = attend, `(b, t)`: which tokens may be seen.
            return_weights: whether to return the weights too, which takes time and memory `t²`.

        Returns:
            `(b, t, embed_dim)`; where nothing may be attended to, the bias of `out_proj`. With `return_weights`
            `(output, weights)`, the weights `(b, num_heads, t, t)`, without the convolution; their rows sum to 1
            only about, and some may be negative.
        """
        require_last_dim("x", x.shape, self.embed_dim)
        if mask is not None:
            require_boolean_mask("mask", mask, [x.shape[:-1]])
        if x.ndim == 2:
            return call_unbatched(self, x, None, {"return_weights": return_weights}, mask=mask)

        values = self._heads(self.v_proj(x))
        if mask is not None:
            values = jnp.where(mask[..., None, None], values, 0)
        queries, keys = (self._heads(linear(x)) for linear in (self.q_proj, self.k_proj))
        asked = return_weights or sees_weights(self)
        graph, conv = nnx.split(self.conv)

        def run(given: Any) -> tuple[Array, ...]:
            conv, *operands = given
            return self._attention(nnx.merge(graph, conv), *operands, return_weights=asked)

        operands = conv, queries, keys, values, mask
        heads, *weights = in_auto_axes(run, operands, values, ("BTNH", "BNTS")[: 1 + asked])
        output = self.out_proj(heads.reshape(x.shape))
        if not asked:
            return output
        keep_weights(self, weights[0])
        return (output, *weights) if return_weights else output

    def _attention(
        self,
        conv: nnx.Conv | None,
        queries: Float[Array, "B T N H"],
        keys: Float[Array, "B T N H"],
        values: Float[Array, "B T N H"],
        mask: Bool[Array, "B T"] | None,
        return_weights: bool,
    ) -> tuple[Array, ...]:
        """The heads `(B, T, N, H)`, and the weights `(B, N, T, T)` if asked for."""
        wide = accumulator(values.dtype)
        queries, keys = (x.astype(wide) * self.head_dim**-0.25 for x in (queries, keys))
        factors = self._factors(queries, keys, mask)
        heads = functools.reduce(
            lambda mixed, factor: factor @ mixed, reversed(factors), values.astype(wide).swapaxes(1, 2)
        )
        heads = heads.swapaxes(1, 2).astype(values.dtype)
        if conv is not None:
            heads = heads + conv(values.swapaxes(2, 3)).swapaxes(2, 3)
        return (
            (heads, functools.reduce(jnp.matmul, factors).astype(values.dtype))
            if return_weights
            else (heads,)
        )

    def _factors(self, queries: Array, keys: Array, mask: Array | None) -> list[Array]:
        """The matrices whose product is the weights, `(b, n, ., .)`: three, or the weights by themselves."""
        of_keys = None if mask is None else mask[:, None, None]
        size = max(1, -(-queries.shape[1] // self.num_landmarks))
        if size == 1:
            return [_softmax(queries, keys, of_keys)]
        (q_marks, marked), (k_marks, _) = (segment_means(each, mask, size) for each in (queries, keys))
        of_marks = marked[:, None, None]
        between = jnp.where(marked[:, None, :, None], _softmax(q_marks, k_marks, of_marks), 0)
        inverse = iterative_inverse(between, self.iterations)
        return [_softmax(queries, k_marks, of_marks), inverse, _softmax(q_marks, keys, of_keys)]

    def _heads(self, projected: Float[Array, "b t nh"]) -> Float[Array, "b t n h"]:
        """Neighbouring features make up a head."""
        return projected.reshape(*projected.shape[:2], self.num_heads, self.head_dim)


def _softmax(query: Array, key: Array, allowed: Array | None) -> Array:
    return masked_softmax(jnp.einsum("btnh,bsnh->bnts", query, key), allowed)
