"""Softmax attention in linear time, by random features."""

import math
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jax_attn.functional.checks import (
    require_boolean_mask,
    require_context,
    require_divisible,
    require_last_dim,
    require_positive,
)
from jax_attn.functional.linear_attention import (
    bidirectional_linear_attention,
    chunked_linear_attention,
    linear_attention_weights,
)
from jax_attn.functional.logical_axes import LogicalAxes
from jax_attn.functional.random_features import orthogonal_features, softmax_features
from jax_attn.nn.attention.attend import call_unbatched
from jax_attn.nn.attention.weights import keep_weights, sees_weights
from jax_attn.nn.primitives import Linear, RandomBuffer


class PerformerAttention(nnx.Module):
    """Multi-head attention with the weights `φ(q) · φ(k) / Σ φ(q) · φ(k)`, on average those of the softmax.

    `φ(x) = exp(ω x' - |x'|² / 2) / sqrt(num_features)`, `x' = x / head_dim^(1/4)`, with fixed random vectors `ω`,
    which all heads share. Time and memory grow with the length, not with its square.

    Parameters: `q_proj`, `k_proj`, `v_proj` and `out_proj` kernels `(embed_dim, embed_dim)`, and a bias each
    with `bias`. Buffer: `features` `(num_features, head_dim)`, orthogonal in blocks of `head_dim`; to draw others,
    set it to what `jax_attn.functional.orthogonal_features` gives.

    Args:
        embed_dim: width of input and output.
        num_heads: number of heads; it divides `embed_dim`.
        num_features: number of random features; None is `head_dim · log(head_dim)`, rounded down, and one at least.
        is_causal: a query sees the keys up to its own position only. There is no cache for decoding.
        bias: whether the four projections have a bias.
        eps: added to each feature, as the authors' code adds 1e-4. With 0, as in the paper, the weights are
            positive and causal attention sees nothing of later keys; the code's factor depends on all keys, and
            cancels only with 0.
        chunk_size: how many tokens of causal attention are computed at once; it changes nothing but the speed.
        rngs: source of the initial weights and of the features.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of parameters and features.

    Raises:
        ValueError: `num_heads` does not divide `embed_dim`, a size is below 1, `eps` is negative, an input has
            another width or rank, the mask is not boolean or does not fit, or causal attention is given a context.

    Source: Choromanski et al. (arXiv 2009.14794).
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "q_proj": ("embed", "heads"),
        "k_proj": ("embed", "heads"),
        "v_proj": ("embed", "heads"),
        "out_proj": ("heads", "embed"),
        "features": ("rank", "head_dim"),
    }

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_features: int | None = None,
        is_causal: bool = False,
        bias: bool = True,
        eps: float = 0.0,
        chunk_size: int = 64,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = require_divisible("embed_dim", embed_dim, "num_heads", num_heads)
        num_features = default_features(self.head_dim) if num_features is None else num_features
        require_positive("num_features", num_features)
        require_positive("chunk_size", chunk_size)
        if not eps >= 0:
            raise ValueError(f"eps must be at least 0, got eps={eps}")
        self.is_causal = is_causal
        self.eps = eps
        self.chunk_size = chunk_size

        def linear() -> Linear:
            return Linear(embed_dim, embed_dim, bias=bias, rngs=rngs, dtype=dtype, param_dtype=param_dtype)

        self.q_proj, self.k_proj, self.v_proj, self.out_proj = linear(), linear(), linear(), linear()
        self.features = RandomBuffer(
            orthogonal_features(rngs.params(), num_features, self.head_dim, param_dtype)
        )

    def __call__(
        self,
        x: Float[Array, "*b t d"],
        context: Float[Array, "*b s d"] | None = None,
        mask: Bool[Array, "*b s"] | None = None,
        *,
        return_weights: bool = False,
    ) -> Any:
        """Attend from `x` to `context`, or to `x` itself.

        Args:
            x: `(b, t, embed_dim)`, or `(t, embed_dim)`, and then nothing below has a batch axis either.
            context: `(b, s, embed_dim)`; None is self-attention, with `s = t`.
            mask: True = attend, `(b, s)`: which keys may be seen.
            return_weights: whether to return the weights too, which takes time and memory `t · s`.

        Returns:
            `(b, t, embed_dim)`; where a query may attend to nothing, the bias of `out_proj`. With
            `return_weights` `(output, weights)`, the weights `(b, num_heads, t, s)`.
        """
        require_last_dim("x", x.shape, self.embed_dim)
        if context is not None:
            require_context(context.shape, x.shape, self.embed_dim)
            if self.is_causal:
                raise ValueError("is_causal=True is for self-attention: context must be None")
        if mask is not None:
            require_boolean_mask("mask", mask, [(x if context is None else context).shape[:-1]])
        if x.ndim == 2:
            return call_unbatched(
                self, x, None, {"return_weights": return_weights}, context=context, mask=mask
            )

        context = x if context is None else context
        queries, keys = self._heads(self.q_proj(x)), self._heads(self.k_proj(context))
        values = self._heads(self.v_proj(context))
        if mask is not None:  # a key that is hidden has no say in the factor of all keys
            keys = jnp.where(mask[..., None, None], keys, 0)
        features = self.features[...]
        queries = softmax_features(queries, features, is_query=True, eps=self.eps)
        keys = softmax_features(keys, features, is_query=False, eps=self.eps)
        if self.is_causal:
            heads, _ = chunked_linear_attention(queries, keys, values, mask, chunk_size=self.chunk_size)
        else:
            heads = bidirectional_linear_attention(queries, keys, values, mask)
        output = self.out_proj(heads.reshape(x.shape))
        if not (return_weights or sees_weights(self)):
            return output
        weights = linear_attention_weights(queries, keys, mask, self.is_causal).astype(output.dtype)
        keep_weights(self, weights)
        return (output, weights) if return_weights else output

    def _heads(self, projected: Float[Array, "b t nh"]) -> Float[Array, "b t n h"]:
        """Neighbouring features make up a head."""
        return projected.reshape(*projected.shape[:2], self.num_heads, self.head_dim)


def default_features(head_dim: int) -> int:
    """As many features as the paper's bound asks for: `head_dim · log(head_dim)`."""
    return max(1, int(head_dim * math.log(head_dim)))
