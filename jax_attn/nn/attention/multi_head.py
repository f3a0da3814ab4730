"""The attention that models are built from: many heads, on one sequence or across two."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jax_attn.functional.attention import Implementation
from jax_attn.functional.block_mask import MaskMod
from jax_attn.functional.checks import (
    checked,
    require_callable,
    require_cap,
    require_divisible,
    require_known,
    require_last_dim,
    require_positive,
    require_some,
)
from jax_attn.functional.dispatch import has_many_scores
from jax_attn.functional.logical_axes import LogicalAxes, constrain
from jax_attn.functional.mods import check_mask_mod, check_score_mod
from jax_attn.functional.score_mods import ScoreMod
from jax_attn.nn.attention.attend import call_unbatched, compute, known_implementation, require_positions
from jax_attn.nn.attention.cache import (
    ContextCache,
    KVCache,
    check_kept,
    name_of,
    require_cache,
    require_cacheable,
)
from jax_attn.nn.attention.seen import both, four_axes, real_tokens, what_is_seen
from jax_attn.nn.attention.talking_heads import TalkingHeads
from jax_attn.nn.attention.weights import AttentionWeights, sees_weights
from jax_attn.nn.positions.attention_positions import AttentionPositions, Places, require_attention_positions
from jax_attn.nn.primitives import NORMS, Dropout, Linear, make_norm

PROJECTIONS = ("q", "k", "v", "out")
SINKS = ("learned", "off_by_one")
GATES = ("head", "element")
NO_WINDOW = "it is a distance within one sequence, and has no meaning with a context"


class MultiHeadAttention(nnx.Module):
    """Multi-head attention, in which query heads may share key/value heads.

    `concat(head_1 .. head_N) W_out`, `head_i = softmax(Q_i K_jᵀ / sqrt(head_dim)) V_j`, with
    `j = i // (num_heads / num_kv_heads)`. `Q` comes from `x`, `K` and `V` from `context`, or from `x` too
    where there is none. Dropout acts on the attention weights.

    How `num_heads=4` query heads share their keys and values::

        num_kv_heads     4 (or None)            2                    1
                       multi-head: MHA    grouped-query: GQA   multi-query: MQA

        values         [v] [v] [v] [v]       [ v ]   [ v ]        [     v     ]
        keys           [k] [k] [k] [k]       [ k ]   [ k ]        [     k     ]
                        |   |   |   |         / \\     / \\         /   |   |   \\
        queries        [q] [q] [q] [q]      [q] [q] [q] [q]     [q] [q] [q] [q]

    The scores go this way: QK-norm, rotary positions, product, talking heads, scale, soft-cap, other positions,
    `score_mod`, `bias`, mask, softmax beside the sink.

    Parameters: `q_proj` `(embed_dim, num_heads * head_dim)`, `k_proj` `(kdim, num_kv_heads * head_dim)`, `v_proj`
    `(vdim, num_kv_heads * v_head_dim)`, `out_proj` `(num_heads * v_head_dim, out_dim)`, and those of the options:
    `q_norm`, `k_norm`, `sinks` `(num_heads,)`, `gate_proj`, `talking_heads`, `positions`.

    Args:
        embed_dim: width of the input.
        num_heads: number of query heads; it divides `embed_dim` where `head_dim` is not given.
        num_kv_heads: number of key/value heads; it divides `num_heads`, and None is one for each query head.
        dropout: probability of dropping an attention weight while training.
        bias: whether the four projections have a bias, or which of them: some of "q", "k", "v", "out".
        head_dim: width of a head; None is `embed_dim / num_heads`.
        kdim: width of the context; None is `embed_dim`.
        vdim: width of what the values are made of; None is `kdim`.
        out_dim: width of the output; None is `embed_dim`.
        is_causal: whether a query sees nothing after itself.
        window: how many tokens a query sees before it, itself among them; and after it, where not causal.
        mask_mod: `(b, h, q_position, kv_position) -> bool`, what else decides what is seen; of one batch entry.
        positions: how positions act on the scores, from `jax_attn.nn.positions`; None is not at all.
        scale: factor of the scores; None is `head_dim^-1/2`.
        softcap: scores become `softcap · tanh(scores / softcap)`.
        score_mod: `(score, b, h, q_position, kv_position) -> score`.
        qk_norm: the norm of each head's query and key, "rms" or "layer"; None is none.
        qk_norm_eps: its epsilon.
        sinks: what takes its share of the softmax and gives nothing: "learned" is a logit for each head,
            "off_by_one" the logit 0; None is nothing.
        gate: what `sigmoid(x W_gate)` multiplies before `out_proj`: each "head", or each "element"; None is none.
            It has a bias where `q_proj` has one.
        talking_heads: whether scores and weights are mixed between heads, as in `TalkingHeads`.
        v_head_dim: width of a head's values; None is `head_dim`, that of its query and key.
        implementation: which one of `dot_product_attention` computes; None is the best.
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: sizes that do not divide, options that are not known or do not go together, an input of another
            width or rank, or a mask that is not boolean or does not fit.

    Source: Vaswani et al. (arXiv 1706.03762), section 3.2.2; MQA: Shazeer (arXiv 1911.02150); GQA: Ainslie
    et al. (arXiv 2305.13245); soft-cap: Gemma 2 (2408.00118); QK-norm: Qwen 3 and ViT-22B (2302.05442); sinks:
    gpt-oss; gate: Qiu et al. (2505.06708); talking heads: Shazeer et al. (2003.02436).
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "q_proj": ("embed", "heads"),
        "k_proj": ("embed", "kv_heads"),
        "v_proj": ("embed", "kv_heads"),
        "out_proj": ("heads", "embed"),
        "gate_proj": ("embed", "heads"),
        "sinks": ("heads",),
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
        kdim: int | None = None,
        vdim: int | None = None,
        out_dim: int | None = None,
        is_causal: bool = False,
        window: int | None = None,
        mask_mod: MaskMod | None = None,
        positions: AttentionPositions | None = None,
        scale: float | None = None,
        softcap: float | None = None,
        score_mod: ScoreMod | None = None,
        qk_norm: str | None = None,
        qk_norm_eps: float = 1e-6,
        sinks: str | None = None,
        gate: str | None = None,
        talking_heads: bool = False,
        v_head_dim: int | None = None,
        *,
        implementation: Implementation | None = None,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if head_dim is None:
            head_dim = require_divisible("embed_dim", embed_dim, "num_heads", num_heads)
        require_divisible("num_heads", num_heads, "num_kv_heads", num_kv_heads)
        require_positive("head_dim", head_dim)
        v_head_dim = head_dim if v_head_dim is None else v_head_dim
        require_positive("v_head_dim", v_head_dim)
        self.embed_dim = embed_dim
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = self.kdim if vdim is None else vdim
        self.out_dim = embed_dim if out_dim is None else out_dim
        for name in ("kdim", "vdim", "out_dim"):
            require_positive(name, getattr(self, name))
        if window is not None:
            require_positive("window", window)
            if self.kdim != embed_dim:
                raise ValueError(
                    f"window must be None where kdim={self.kdim} is not {embed_dim=}: {NO_WINDOW}"
                )
        require_callable("mask_mod", mask_mod)
        require_callable("score_mod", score_mod)
        if mask_mod is not None:
            check_mask_mod(mask_mod)
        if score_mod is not None:
            check_score_mod(score_mod, jnp.float32)
        if softcap is not None:
            require_cap("softcap", softcap)
        if qk_norm is not None:
            require_known("qk_norm", qk_norm, NORMS)
        if sinks is not None:
            require_known("sinks", sinks, SINKS)
        if gate is not None:
            require_known("gate", gate, GATES)
        if positions is not None:
            require_attention_positions(positions)
            positions.check_heads(num_heads, head_dim)
            if positions.needs_weights and v_head_dim != head_dim:
                raise ValueError(
                    f"v_head_dim must be head_dim={head_dim} where positions add to the values, got {v_head_dim}"
                )
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_dim = head_dim
        self.v_head_dim = v_head_dim
        self.is_causal = is_causal
        self.window = window
        self.mask_mod = mask_mod
        self.positions = positions
        self.scale = head_dim**-0.5 if scale is None else scale
        self.softcap = softcap
        self.score_mod = score_mod
        self.gate = gate
        self.implementation = known_implementation(implementation)
        self.dtype = dtype
        self.param_dtype = param_dtype

        if isinstance(bias, bool):
            bias = PROJECTIONS if bias else ()
        biases = require_some("bias", bias, PROJECTIONS)
        options: dict[str, Any] = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.q_proj = Linear(embed_dim, num_heads * head_dim, "q" in biases, **options)
        self.k_proj = Linear(self.kdim, num_kv_heads * head_dim, "k" in biases, **options)
        self.v_proj = Linear(self.vdim, num_kv_heads * v_head_dim, "v" in biases, **options)
        self.out_proj = Linear(num_heads * v_head_dim, self.out_dim, "out" in biases, **options)
        self.dropout = Dropout(dropout, rngs=rngs)
        self.q_norm, self.k_norm = (
            None if qk_norm is None else make_norm(qk_norm, head_dim, qk_norm_eps, **options) for _ in "qk"
        )
        self.off_by_one = sinks == "off_by_one"
        drawn = rngs.params.normal((num_heads,), param_dtype) if sinks == "learned" else None
        self.sinks = None if drawn is None else nnx.Param(drawn)
        gates = {None: 0, "head": num_heads, "element": num_heads * v_head_dim}[gate]
        self.gate_proj = Linear(embed_dim, gates, "q" in biases, **options) if gates else None
        self.talking_heads = TalkingHeads(num_heads, **options) if talking_heads else None

    def __call__(
        self,
        x: Float[Array, "*b t d"],
        context: Float[Array, "*b s k"] | None = None,
        mask: Bool[Array, "..."] | None = None,
        *,
        value: Float[Array, "*b s v"] | None = None,
        bias: Float[Array, "..."] | None = None,
        positions: Int[Array, "*#b t"] | None = None,
        context_positions: Int[Array, "*#b s"] | None = None,
        segment_ids: Int[Array, "*b t"] | None = None,
        cache: KVCache | ContextCache | None = None,
        return_weights: bool = False,
    ) -> Any:
        """Attend from `x` to `context`, to what the cache holds, or to `x` itself.

        Args:
            x: `(b, t, embed_dim)`, or `(t, embed_dim)`, and then nothing below has a batch axis either.
            context: `(b, s, kdim)`; None is self-attention, with `s = t`.
            mask: True = attend. `(b, s)` tells which keys may be seen; `(b, t, s)` and `(b, num_heads, t, s)`
                which query may see which. Any axis may be 1. With a cache: `(b, t)`, which tokens are no padding.
            value: `(b, s, vdim)`, what the values are made of; None is the context.
            bias: added to the scores; broadcasts against `(b, num_heads, t, s)`.
            positions: `(b or 1, t)`, where the tokens stand; None counts from 0, or goes on where the cache ends.
            context_positions: `(b or 1, s)`, the same of the context.
            segment_ids: `(b, t)`; a token sees those of its own segment, where several are packed into one row.
            cache: of `init_cache`: attend to the tokens before too; or of `init_context_cache`: to that context.
            return_weights: also return the weights `(b, num_heads, t, s)`, dropout included.

        Returns:
            `(b, t, out_dim)`; where a query may attend to nothing, the bias of `out_proj`. With `return_weights` or
            a cache a tuple: the output, the weights if asked for, the new cache if there was one.
        """
        require_last_dim("x", x.shape, self.embed_dim)
        if x.ndim == 2:  # a batch of one
            return call_unbatched(
                self,
                x,
                cache,
                {"return_weights": return_weights},
                context=context,
                mask=mask,
                value=value,
                bias=bias,
                positions=positions,
                context_positions=context_positions,
                segment_ids=segment_ids,
            )
        self._check_context(x, context)
        require_positions("positions", positions, *x.shape[:2])
        if cache is not None:
            self._check_cached(
                x, cache, context=context, value=value, segment_ids=segment_ids, positions=positions
            )
        query = self.split_heads(self.q_proj(x))
        query = query if self.q_norm is None else self.q_norm(query)
        if isinstance(cache, ContextCache):
            tokens = Tokens(cache.key, cache.value, Places(positions, context_positions))
        elif isinstance(cache, KVCache):
            tokens, cache = self._cached(x, mask, cache)
            mask = None
        else:
            tokens = self._tokens(x, context, value, positions, context_positions)
        query = query if self.positions is None else self.positions.rotate(query, tokens.places.query)

        by_position = isinstance(cache, KVCache)
        seen = self._seen(query, tokens, mask, by_position)
        heads, weights = self._attend(
            query, tokens, return_weights, bias=bias, segment_ids=segment_ids, **seen
        )
        heads = constrain(self._gated(heads, x), "batch", "length", "heads", None)
        output = self.out_proj(heads.reshape(*x.shape[:2], self.num_heads * self.v_head_dim))
        asked = [*([weights] if return_weights else []), *([cache] if cache is not None else [])]
        return (output, *asked) if asked else output

    def init_cache(self, batch: int, length: int, dtype: DTypeLike | None = None) -> KVCache:
        """An empty cache for `length` tokens of `batch` sequences; with a window it rolls, and holds no more.

        Raises:
            ValueError: the attention is not causal, or its positions cannot be computed token by token.
        """
        dtype = dtype or self.dtype or self.param_dtype
        widths = self.head_dim, self.v_head_dim
        cache = KVCache.empty(self, batch, length, self.num_kv_heads, widths, dtype, self.window)
        require_cacheable(self.is_causal, self.positions, cache.most)
        return cache

    def init_context_cache(
        self,
        context: Float[Array, "b s k"],
        value: Float[Array, "b s v"] | None = None,
        context_positions: Int[Array, "b s"] | None = None,
    ) -> ContextCache:
        """The keys and values of a context, computed once for all tokens that attend to it."""
        require_last_dim("context", context.shape, self.kdim, ndims=(3,))
        return ContextCache(*self._keys_and_values(context, value, context_positions), name_of(self))

    def split_heads(
        self, projected: Float[Array, "b t nh"], width: int | None = None
    ) -> Float[Array, "b t n h"]:
        """Neighbouring features make up a head: `width` of them, or `head_dim`."""
        width = self.head_dim if width is None else width
        heads = projected.reshape(*projected.shape[:2], projected.shape[-1] // width, width)
        return constrain(heads, "batch", "length", "heads", None)

    def _tokens(self, x: Array, context: Any, value: Any, positions: Any, context_positions: Any) -> "Tokens":
        """What is attended to where there is no cache: the context, or `x` itself."""
        if context is None:
            if self.kdim != self.embed_dim:
                raise ValueError(f"context must be given where kdim={self.kdim} is not {self.embed_dim}")
            context, context_positions = x, positions
        keys_and_values = self._keys_and_values(context, value, context_positions)
        return Tokens(*keys_and_values, Places(positions, context_positions))

    def _cached(self, x: Array, mask: Any, cache: KVCache) -> tuple["Tokens", KVCache]:
        """The tokens of the cache with those of `x`, and the cache that holds both."""
        batch, new = x.shape[:2]
        positions = cache.next_positions(batch, new, real_tokens(mask, batch, new))
        cache, key, value, places = cache.append(*self._keys_and_values(x, None, positions), positions)
        return Tokens(key, value, places), cache

    def _keys_and_values(
        self, context: Float[Array, "b s k"], value: Any, positions: Int[Array, "b s"] | None
    ) -> tuple[Array, Array]:
        require_positions("context_positions", positions, *context.shape[:2])
        value = context if value is None else value
        require_last_dim("value", value.shape, self.vdim, ndims=(3,))
        key = self.split_heads(self.k_proj(context))
        key = key if self.k_norm is None else self.k_norm(key)
        key = key if self.positions is None else self.positions.rotate(key, positions)
        return key, self.split_heads(self.v_proj(value), self.v_head_dim)

    def _seen(self, query: Array, tokens: "Tokens", mask: Any, by_position: bool) -> dict[str, Any]:
        """What each query sees, and how its scores change."""
        scores = (query.shape[0], self.num_heads, query.shape[1], tokens.key.shape[1])
        mask = None if mask is None else four_axes(mask, scores)
        seen = what_is_seen(
            scores,
            tokens.places,
            is_causal=self.is_causal,
            window=self.window,
            mask_mod=self.mask_mod,
            by_position=by_position,
            in_blocks=has_many_scores(query, tokens.key),
        )
        return {
            **seen,
            "mask": both(mask, seen.get("mask")),
            "score_mod": self._score_mod(query, tokens.places),
        }

    def _score_mod(self, query: Float[Array, "B T N H"], places: Places) -> ScoreMod | None:
        """What positions and the score mod do to the scores, asked about indices."""
        of_positions = None if self.positions is None else self.positions.score_mod(query, self.scale, places)
        own = self.score_mod
        if own is None:
            return of_positions

        def score_mod(score: Array, b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
            score = score if of_positions is None else of_positions(score, b, h, q_idx, kv_idx)
            return own(score, b, h, places.of_query(b, q_idx), places.of_key(b, kv_idx))

        return score_mod

    def _attend(
        self, query: Array, tokens: "Tokens", return_weights: bool, **options: Any
    ) -> tuple[Array, Array | None]:
        """The heads' outputs, and the weights where they are asked for, captured or needed by the positions."""
        captured = sees_weights(self)
        needs = self.positions is not None and self.positions.needs_weights
        heads, weights = self._attention(query, tokens, return_weights or captured or needs, options)
        if weights is not None and self.positions is not None:
            more = self.positions.values(weights, tokens.places)
            heads = heads if more is None else heads + more
        if captured:
            self.sow(AttentionWeights, "weights", weights)
        return heads, weights

    def _attention(
        self, query: Array, tokens: "Tokens", return_weights: bool, options: dict[str, Any]
    ) -> tuple[Array, Array | None]:
        """Attention itself, with heads that talk to each other or not."""
        key, value = tokens.key, tokens.value
        if self.talking_heads is not None:
            query, key, value = self.talking_heads.widen(query, key, value)
        options["sinks"] = jnp.zeros(self.num_heads, query.dtype) if self.off_by_one else None
        if self.sinks is not None:
            options["sinks"] = self.sinks[...]
        output, weights = compute(
            self, query, key, value, return_weights, scale=self.scale, softcap=self.softcap, **options
        )
        if self.talking_heads is None:
            return output, weights
        mixed = None if weights is None else self.talking_heads.mix_weights(weights)
        return self.talking_heads.mix_outputs(output), mixed

    def _gated(self, heads: Float[Array, "B T N H"], x: Float[Array, "B T d"]) -> Float[Array, "B T N H"]:
        if self.gate_proj is None:
            return heads
        gate = nnx.sigmoid(self.gate_proj(x))
        return heads * (gate[..., None] if self.gate == "head" else gate.reshape(heads.shape))

    def _check_context(self, x: Array, context: Array | None) -> None:
        """Raise ValueError where the context does not go with `x` or with the window."""
        if context is None:
            return
        require_last_dim("context", context.shape, self.kdim, ndims=(3,))
        if context.shape[0] != x.shape[0]:
            raise ValueError(f"context must have the batch size of x, {x.shape[0]}, got {context.shape[0]}")
        if self.window is not None:
            raise ValueError(f"context must be None with window={self.window}: {NO_WINDOW}")

    def _check_cached(self, x: Array, cache: KVCache | ContextCache, positions: Any, **given: Any) -> None:
        """Raise ValueError where the cache is for another call, or comes with what it holds itself."""
        require_cache(cache, KVCache, ContextCache)
        if isinstance(cache, KVCache):
            given["positions"] = positions
        for name, argument in given.items():
            if argument is not None:
                raise ValueError(f"{name} cannot be given together with a cache")
        sizes = self.num_kv_heads, (self.head_dim, self.v_head_dim)
        if isinstance(cache, KVCache):
            require_cacheable(self.is_causal, self.positions, cache.most)
            cache.check(self, *x.shape[:2], *sizes, self.window)
        else:
            check_kept(cache, self, x.shape[0], *sizes)


class Tokens(NamedTuple):
    """What queries look at.

    Attributes:
        key: `(B, S, K, H)`, normalised and rotated.
        value: `(B, S, K, Hv)`.
        places: where the queries and these keys stand.
    """

    key: Array
    value: Array
    places: Places
