"""Softmax attention in linear time, by random features."""

import math
from typing import Any, ClassVar, NamedTuple

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
    empty_state,
    linear_attention_weights,
    recurrent_linear_attention,
)
from jax_attn.functional.logical_axes import LogicalAxes
from jax_attn.functional.random_features import further_features, orthogonal_features, softmax_features
from jax_attn.nn.attention.attend import call_unbatched
from jax_attn.nn.attention.cache import as_before, require_cacheable, require_sizes, require_state
from jax_attn.nn.attention.weights import keep_weights, sees_weights
from jax_attn.nn.primitives import Linear, RandomBuffer


class PerformerCache(NamedTuple):
    """What decoding needs to know of the tokens before: a plain value, of one size for any number of them.

    Attributes:
        memory: `(b, num_heads, num_features, head_dim + 1)`, the sum `Σ φ(k) [v 1]ᵀ`, in float32 at least.
        largest: `(b, num_heads)`, the exponent that all its features are divided by the exponential of.
    """

    memory: Array
    largest: Array


class PerformerAttention(nnx.Module):
    """Multi-head attention with the weights `φ(q) · φ(k) / Σ φ(q) · φ(k)`, on average those of the softmax.

    `φ(x) = exp(ω x' - |x'|² / 2) / sqrt(num_features)`, `x' = x / head_dim^(1/4)`, with fixed random vectors `ω`,
    which all heads share. Time and memory grow with the length, not with its square, and decoding keeps a sum,
    whose size no length changes.

    Parameters: `q_proj`, `k_proj`, `v_proj` and `out_proj` kernels `(embed_dim, embed_dim)`, and a bias each
    with `bias`. Buffer: `features` `(num_features, head_dim)`, orthogonal in blocks of `head_dim`; to draw others,
    set it to what `jax_attn.functional.orthogonal_features` gives.

    Args:
        embed_dim: width of input and output.
        num_heads: number of heads; it divides `embed_dim`.
        num_features: number of random features; None is `head_dim · log(head_dim)`, rounded down, and one at least.
        is_causal: a query sees the keys up to its own position only.
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
            another width or rank, the mask is not boolean or does not fit, causal attention is given a context, or
            a cache has no meaning or other sizes.

    Source: Choromanski et al. (arXiv 2009.14794).
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "q_proj": ("embed", "heads"),
        "k_proj": ("embed", "heads"),
        "v_proj": ("embed", "heads"),
        "out_proj": ("heads", "embed"),
        "features": ("rank", "head_dim"),
    }

    @checked
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
        self.cache_dtype = param_dtype if dtype is None else dtype

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
        cache: PerformerCache | None = None,
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
        require_last_dim("x", x.shape, self.embed_dim)
        if context is not None:
            require_context(context.shape, x.shape, self.embed_dim)
            if self.is_causal:
                raise ValueError("is_causal=True is for self-attention: context must be None")
        if mask is not None:
            require_boolean_mask("mask", mask, [(x if context is None else context).shape[:-1]])
        if x.ndim == 2:
            return call_unbatched(
                self, x, cache, {"return_weights": return_weights}, context=context, mask=mask
            )
        if cache is not None:
            self._check_cache(x.shape[0], cache, return_weights)

        context = x if context is None else context
        queries, keys = self._heads(self.q_proj(x)), self._heads(self.k_proj(context))
        values = self._heads(self.v_proj(context))
        if mask is not None:  # a key that is hidden has no say in the factor of all keys
            keys = jnp.where(mask[..., None, None], keys, 0)
        features = self.features[...]
        queries = softmax_features(queries, features, is_query=True, eps=self.eps)
        memory: Any = None
        largest: Any = None
        if cache is None:
            keys = softmax_features(keys, features, is_query=False, eps=self.eps)
        else:
            keys, largest = further_features(keys, features, cache.largest)
            memory = cache.memory * jnp.exp(cache.largest - largest)[..., None, None]
        if not self.is_causal:
            heads = bidirectional_linear_attention(queries, keys, values, mask)
        elif x.shape[1] == 1:
            heads, memory = recurrent_linear_attention(queries, keys, values, mask, memory)
        else:
            heads, memory = chunked_linear_attention(queries, keys, values, mask, memory, self.chunk_size)
        output = self.out_proj(heads.reshape(x.shape))
        if cache is not None:
            return output, as_before(PerformerCache(memory, largest), cache)
        if not (return_weights or sees_weights(self)):
            return output
        weights = linear_attention_weights(queries, keys, mask, self.is_causal).astype(output.dtype)
        keep_weights(self, weights)
        return (output, weights) if return_weights else output

    def init_cache(
        self, batch: int, length: int | None = None, dtype: DTypeLike | None = None
    ) -> PerformerCache:
        """The state before the first token, of one size for any `length`.

        Raises:
            ValueError: the attention is not causal, or has an `eps`, with which the factor of the keys does not
                cancel: the state would need those that are still to come.
        """
        self._require_cacheable()
        dtype = dtype or self.cache_dtype
        require_sizes(batch, length, dtype)
        memory = empty_state(
            batch, self.num_heads, self.features[...].shape[0], self.head_dim, jnp.dtype(dtype)
        )
        return PerformerCache(memory, jnp.full((batch, self.num_heads), -jnp.inf, memory.dtype))

    def _require_cacheable(self) -> None:
        require_cacheable(self.is_causal)
        if self.eps:
            raise ValueError(
                f"eps must be 0 for a cache: with it features depend on later keys, got {self.eps}"
            )

    def _check_cache(self, batch: int, cache: PerformerCache, return_weights: bool) -> None:
        self._require_cacheable()
        require_state(cache, jax.eval_shape(lambda: self.init_cache(batch)))
        if return_weights:
            raise ValueError("return_weights needs every key, and a cache has their sum: pass one of them")

    def _heads(self, projected: Float[Array, "b t nh"]) -> Float[Array, "b t n h"]:
        """Neighbouring features make up a head."""
        return projected.reshape(*projected.shape[:2], self.num_heads, self.head_dim)


def default_features(head_dim: int) -> int:
    """As many features as the paper's bound asks for: `head_dim · log(head_dim)`."""
    return max(1, int(head_dim * math.log(head_dim)))
