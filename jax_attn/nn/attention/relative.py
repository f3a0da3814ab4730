"""Attention whose scores know how far a key is before its query, and which looks back into an earlier segment."""

from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jax_attn.functional.attention import Implementation
from jax_attn.functional.checks import checked, require_divisible, require_last_dim, require_positive
from jax_attn.functional.dispatch import has_many_scores
from jax_attn.functional.dtypes import accumulator
from jax_attn.functional.logical_axes import LogicalAxes
from jax_attn.functional.relative_shift import relative_shift
from jax_attn.nn.attention.attend import attend, call_unbatched, known_implementation
from jax_attn.nn.attention.cache import KVCache, require_cache, require_cacheable
from jax_attn.nn.attention.seen import both, four_axes, real_tokens, what_is_seen
from jax_attn.nn.positions.attention_positions import Places
from jax_attn.nn.primitives import Dropout, Linear


class RelativeAttention(nnx.Module):
    """Relative attention of Transformer-XL, with a memory of the segment before.

    `score_ij = ((q_i + u) · k_j + (q_i + v) · W_r R[i - j]) / sqrt(head_dim)`: `u` and `v` are biases of each head
    for content and position, and `R[d]` holds the waves of a distance, `sin(d f_m)` and then `cos(d f_m)` with
    `f_m = 10000^(-2m / embed_dim)`. Keys and values come from the memory and the input, queries from the input.

    The second product is taken for each distance once, and shifted into place.

    Parameters: `q_proj`, `k_proj`, `v_proj`, `r_proj` `(embed_dim, num_heads * head_dim)`, the last without a bias;
    `out_proj` `(num_heads * head_dim, embed_dim)`; `content_bias` (u) and `position_bias` (v)
    `(num_heads, head_dim)`.

    Args:
        embed_dim: width of input and output; even.
        num_heads: number of heads; it divides `embed_dim` where `head_dim` is not given.
        dropout: probability of dropping an attention weight while training.
        bias: whether the projections of the input, and `out_proj`, have a bias.
        head_dim: width of a head; None is `embed_dim / num_heads`.
        is_causal: whether a query sees nothing after itself.
        window: how many tokens a query sees before it, itself among them; and after it, where not causal.
        implementation: which one of `dot_product_attention` computes; None is the best.
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: sizes that do not divide, an odd `embed_dim`, an input or memory of another width or rank, or a
            mask that is not boolean or does not fit.

    Source: Dai et al. (arXiv 1901.02860), section 3.3; the waves' order as its published code and XLNet's.
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "q_proj": ("embed", "heads"),
        "k_proj": ("embed", "heads"),
        "v_proj": ("embed", "heads"),
        "r_proj": ("embed", "heads"),
        "out_proj": ("heads", "embed"),
        "content_bias": ("heads", "head_dim"),
        "position_bias": ("heads", "head_dim"),
    }

    @checked
    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = False,
        head_dim: int | None = None,
        is_causal: bool = False,
        window: int | None = None,
        *,
        implementation: Implementation | None = None,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        if head_dim is None:
            head_dim = require_divisible("embed_dim", embed_dim, "num_heads", num_heads)
        require_divisible("embed_dim", embed_dim, "the two waves of a frequency", 2)
        require_positive("num_heads", num_heads)
        require_positive("head_dim", head_dim)
        if window is not None:
            require_positive("window", window)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.is_causal = is_causal
        self.window = window
        self.scale = head_dim**-0.5
        self.implementation = known_implementation(implementation)
        self.dtype = dtype
        self.param_dtype = param_dtype

        options: dict[str, Any] = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        width = num_heads * head_dim
        self.q_proj, self.k_proj, self.v_proj = (Linear(embed_dim, width, bias, **options) for _ in range(3))
        self.r_proj = Linear(embed_dim, width, False, **options)
        self.out_proj = Linear(width, embed_dim, bias, **options)
        self.content_bias, self.position_bias = (
            nnx.Param(0.02 * rngs.params.normal((num_heads, head_dim), param_dtype)) for _ in range(2)
        )
        self.dropout = Dropout(dropout, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "*b t d"],
        memory: Float[Array, "*b m d"] | None = None,
        mask: Bool[Array, "..."] | None = None,
        *,
        segment_ids: Int[Array, "*b t"] | None = None,
        cache: KVCache | None = None,
        return_weights: bool = False,
    ) -> Any:
        """Attend from `x` to the memory and itself, or to what the cache holds.

        Args:
            x: `(b, t, embed_dim)`, or `(t, embed_dim)`, and then nothing below has a batch axis either.
            memory: `(b, m, embed_dim)`, what came before `x`; the keys are `s = m + t`. In the paper it gets no
                gradient: pass `jax.lax.stop_gradient` of it.
            mask: True = attend. `(b, s)` tells which keys may be seen; `(b, t, s)` and `(b, num_heads, t, s)` which
                query may see which. Any axis may be 1. With a cache: `(b, t)`, which tokens are no padding.
            segment_ids: `(b, t)`; a token sees those of its own segment, where several are packed into one row.
            cache: of `init_cache`: attend to the tokens before too.
            return_weights: also return the weights `(b, num_heads, t, s)`, dropout included.

        Returns:
            `(b, t, embed_dim)`; where a query may attend to nothing, the bias of `out_proj`, or 0. With
            `return_weights` or a cache a tuple: the output, the weights if asked for, the new cache if there was
            one.
        """
        require_last_dim("x", x.shape, self.embed_dim)
        if x.ndim == 2:
            shared = {"return_weights": return_weights}
            given = {"memory": memory, "mask": mask, "segment_ids": segment_ids}
            return call_unbatched(self, x, cache, shared, **given)
        self._check(x, memory, segment_ids, cache)
        batch, tokens, _ = x.shape
        query = self._split_heads(self.q_proj(x))
        of_content, of_position = (
            query + bias[...].astype(query.dtype) for bias in (self.content_bias, self.position_bias)
        )
        if cache is None:
            context = x if memory is None else jnp.concatenate([memory.astype(x.dtype), x], axis=1)
            key, value = self._keys_and_values(context)
            past = context.shape[1] - tokens
            places = Places(None if past == 0 else past + jnp.arange(tokens)[None])
            bias = self._of_all_pairs(of_position, past)
        else:
            require_cache(cache, KVCache)
            require_cacheable(self.is_causal)
            cache.check(self, batch, tokens, self.num_heads, (self.head_dim, self.head_dim), self.window)
            at = cache.next_positions(batch, tokens, real_tokens(mask, batch, tokens))
            cache, key, value, places = cache.append(*self._keys_and_values(x), at)
            mask, bias = None, self._of_slots(of_position, at, places.key, key.shape[1])

        scores = (batch, self.num_heads, tokens, key.shape[1])
        mask = None if mask is None else four_axes(mask, scores)
        seen = what_is_seen(
            scores,
            places,
            is_causal=self.is_causal,
            window=self.window,
            mask_mod=None,
            by_position=places.query is not None,
            in_blocks=has_many_scores(query, key),
        )
        seen |= {"mask": both(mask, seen.get("mask")), "segment_ids": segment_ids}
        heads, weights = attend(
            self, of_content, key, value, return_weights, scale=self.scale, bias=bias * self.scale, **seen
        )
        output = self.out_proj(heads.reshape(batch, tokens, self.num_heads * self.head_dim))
        asked = [*([weights] if return_weights else []), *([cache] if cache is not None else [])]
        return (output, *asked) if asked else output

    def init_cache(self, batch: int, length: int, dtype: DTypeLike | None = None) -> KVCache:
        """An empty cache for `length` tokens of `batch` sequences; with a window it rolls, and holds no more.

        Raises:
            ValueError: the attention is not causal.
        """
        require_cacheable(self.is_causal)
        dtype = dtype or self.dtype or self.param_dtype
        widths = self.head_dim, self.head_dim
        return KVCache.empty(self, batch, length, self.num_heads, widths, dtype, self.window)

    def _of_all_pairs(self, query: Float[Array, "B T N H"], past: int) -> Float[Array, "B N T S"]:
        """The products with the distances of all keys, of which `past` come before the first query."""
        tokens = query.shape[1]
        last = past + tokens - 1  # the farthest that a key is before its query
        if not self.is_causal:
            return relative_shift(self._products(query, last - jnp.arange(last + tokens)))
        products = self._products(query, last - jnp.arange(last + 1))  # what comes after a query is not seen
        return relative_shift(jnp.pad(products, ((0, 0),) * 3 + ((0, tokens - 1),)))

    def _of_slots(
        self, query: Float[Array, "B T N H"], at: Int[Array, "B T"], of_keys: Any, slots: int
    ) -> Float[Array, "B N T S"]:
        """The products with the distances of what lies in a cache, by slot."""
        products = self._products(query, jnp.arange(slots))
        of_keys = jnp.arange(slots)[None] if of_keys is None else of_keys
        # What comes after is not seen, and what a rolling cache has forgotten is not seen either.
        distance = jnp.clip(at[:, :, None] - of_keys[:, None], 0, slots - 1)
        return jnp.take_along_axis(products, distance[:, None], axis=-1)

    def _products(
        self, query: Float[Array, "B T N H"], distances: Int[Array, "R"]
    ) -> Float[Array, "B N T R"]:
        """`query · W_r R[d]` of each distance, in whatever order takes fewer products."""
        wide = accumulator(query.dtype)
        kernel = self.r_proj.kernel[...].reshape(self.embed_dim, self.num_heads, self.head_dim)
        operands = (query, kernel.astype(query.dtype), waves(distances, self.embed_dim, query.dtype))
        return jnp.einsum("btnh,dnh,rd->bntr", *operands, preferred_element_type=wide)

    def _keys_and_values(self, x: Float[Array, "B S D"]) -> tuple[Array, Array]:
        return self._split_heads(self.k_proj(x)), self._split_heads(self.v_proj(x))

    def _split_heads(self, projected: Float[Array, "b t nh"]) -> Float[Array, "b t n h"]:
        """Neighbouring features make up a head."""
        return projected.reshape(*projected.shape[:2], self.num_heads, self.head_dim)

    def _check(self, x: Array, memory: Array | None, segment_ids: Array | None, cache: Any) -> None:
        """Raise ValueError where arguments of a call do not go together."""
        if segment_ids is not None and (memory is not None or cache is not None):
            raise ValueError("segment_ids cannot be given together with a memory or a cache")
        if memory is None:
            return
        require_last_dim("memory", memory.shape, self.embed_dim, ndims=(3,))
        if memory.shape[0] != x.shape[0]:
            raise ValueError(f"memory must have the batch size of x, {x.shape[0]}, got {memory.shape[0]}")
        if cache is not None:
            raise ValueError("memory cannot be given together with a cache, which remembers by itself")


def waves(distances: Int[Array, "R"], width: int, dtype: DTypeLike) -> Float[Array, "R width"]:
    """Sines, then cosines, of the distances times `10000^(-2m / width)`; computed in float32 at least."""
    wide = accumulator(dtype)
    frequencies = 10000.0 ** (-np.arange(0, width, 2) / width)
    angles = distances[:, None].astype(wide) * jnp.asarray(frequencies, wide)
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1).astype(dtype)
