"""Attention in linear time: weights that are products of features, with no softmax."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jax_attn.functional.checks import (
    checked,
    require_boolean_mask,
    require_context,
    require_divisible,
    require_last_dim,
    require_positive,
)
from jax_attn.functional.linear_attention import (
    bidirectional_linear_attention,
    chunked_linear_attention,
    elu_features,
    empty_state,
    linear_attention_weights,
    recurrent_linear_attention,
)
from jax_attn.functional.logical_axes import LogicalAxes
from jax_attn.nn.attention.attend import call_unbatched
from jax_attn.nn.attention.cache import as_before, require_cacheable, require_sizes, require_state
from jax_attn.nn.attention.weights import keep_weights, sees_weights
from jax_attn.nn.primitives import Linear


class LinearAttention(nnx.Module):
    """Multi-head attention with the weights `φ(q) · φ(k) / Σ φ(q) · φ(k)`, `φ(x) = elu(x) + 1`.

    Time and memory grow with the length, not with its square: keys and values are summed up once for all
    queries. Causal attention goes chunk by chunk; decoding keeps the sum, whose size no length changes. The
    denominator is as the formula has it; the authors' code adds 1e-6 to it.

    Parameters: `q_proj`, `k_proj`, `v_proj` and `out_proj` kernels `(embed_dim, embed_dim)`, and a bias each
    with `bias`.

    Args:
        embed_dim: width of input and output.
        num_heads: number of heads; it divides `embed_dim`.
        is_causal: a query sees the keys up to its own position only.
        bias: whether the four projections have a bias.
        chunk_size: how many tokens of causal attention are computed at once; it changes nothing but the speed.
        rngs: source of the initial weights.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: `num_heads` does not divide `embed_dim`, an input has another width or rank, the mask is
            not boolean or does not fit, or there is a context or a cache where it has no meaning, or a cache of
            other sizes.

    Source: Katharopoulos et al. (arXiv 2006.16236).
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "q_proj": ("embed", "heads"),
        "k_proj": ("embed", "heads"),
        "v_proj": ("embed", "heads"),
        "out_proj": ("heads", "embed"),
    }

    @checked
    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        is_causal: bool = False,
        bias: bool = True,
        chunk_size: int = 64,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_positive("chunk_size", chunk_size)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = require_divisible("embed_dim", embed_dim, "num_heads", num_heads)
        self.is_causal = is_causal
        self.chunk_size = chunk_size
        self.cache_dtype = param_dtype if dtype is None else dtype

        def linear() -> Linear:
            return Linear(embed_dim, embed_dim, bias=bias, rngs=rngs, dtype=dtype, param_dtype=param_dtype)

        self.q_proj, self.k_proj, self.v_proj, self.out_proj = linear(), linear(), linear(), linear()

    def __call__(
        self,
        x: Float[Array, "*b t d"],
        context: Float[Array, "*b s d"] | None = None,
        mask: Bool[Array, "*b s"] | None = None,
        *,
        cache: Float[Array, "b n h h1"] | None = None,
        return_weights: bool = False,
    ) -> Any:
        """Attend from `x` to `context`, or to `x` itself.

        Args:
            x: `(b, t, embed_dim)`, or `(t, embed_dim)`, and then nothing below has a batch axis either.
            context: `(b, s, embed_dim)`; None is self-attention, with `s = t`.
            mask: True = attend, `(b, s)`: which keys may be seen.
            cache: what `init_cache` or the last call gave: `x` is what comes after it.
            return_weights: whether to return the weights too, which takes time and memory `t · s`.

        Returns:
            `(b, t, embed_dim)`; where a query may attend to nothing, the bias of `out_proj`. With a cache
            `(output, cache)`; with `return_weights` `(output, weights)`, the weights `(b, num_heads, t, s)`.
        """
        self._check(x, context, mask, cache, return_weights)
        if x.ndim == 2:
            return call_unbatched(
                self, x, cache, {"return_weights": return_weights}, context=context, mask=mask
            )

        context = x if context is None else context
        queries = elu_features(self._heads(self.q_proj(x)))
        keys = elu_features(self._heads(self.k_proj(context)))
        values = self._heads(self.v_proj(context))

        if not self.is_causal:
            heads, after = bidirectional_linear_attention(queries, keys, values, mask), None
        elif x.shape[1] == 1:
            heads, after = recurrent_linear_attention(queries, keys, values, mask, cache)
        else:
            heads, after = chunked_linear_attention(queries, keys, values, mask, cache, self.chunk_size)
        output = self.out_proj(heads.reshape(x.shape))
        if cache is not None:
            return output, as_before(after, cache)
        if not (return_weights or sees_weights(self)):
            return output
        weights = linear_attention_weights(queries, keys, mask, self.is_causal)
        keep_weights(self, weights)
        return (output, weights) if return_weights else output

    def init_cache(
        self, batch: int, length: int | None = None, dtype: DTypeLike | None = None
    ) -> Float[Array, "b n h h1"]:
        """The state before the first token: sums `(batch, num_heads, head_dim, head_dim + 1)`, float32 at least.

        It is of one size for any `length`.

        Raises:
            ValueError: the attention is not causal.
        """
        require_cacheable(self.is_causal)
        dtype = dtype or self.cache_dtype
        require_sizes(batch, length, dtype)
        return empty_state(batch, self.num_heads, self.head_dim, self.head_dim, jnp.dtype(dtype))

    def _check(
        self, x: Array, context: Array | None, mask: Array | None, cache: Array | None, return_weights: bool
    ) -> None:
        require_last_dim("x", x.shape, self.embed_dim)
        if context is not None:
            require_context(context.shape, x.shape, self.embed_dim)
            if self.is_causal:
                raise ValueError("is_causal=True is for self-attention: context must be None")
        if mask is not None:
            require_boolean_mask("mask", mask, [(x if context is None else context).shape[:-1]])
        if cache is not None and x.ndim == 3:
            require_cacheable(self.is_causal)
            require_state(cache, jax.eval_shape(lambda: self.init_cache(x.shape[0])))
            if return_weights:
                raise ValueError(
                    "return_weights needs every key, and a cache has their sum: pass one of them"
                )

    def _heads(self, projected: Array) -> Array:
        """Neighbouring features make up a head."""
        return projected.reshape(*projected.shape[:2], self.num_heads, self.head_dim)
