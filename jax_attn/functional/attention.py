"""Scaled dot-product attention: one function, and the implementation that suits the call."""

from itertools import compress
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jax_attn.functional import arguments, score_mods
from jax_attn.functional.block_mask import BlockMask
from jax_attn.functional.blockwise.plan import pattern_of_band, pattern_of_block_mask
from jax_attn.functional.checks import require_cap
from jax_attn.functional.dense import emptied
from jax_attn.functional.dispatch import Call, attend
from jax_attn.functional.dropout import check_dropout, make_dropout
from jax_attn.functional.dtypes import accumulator
from jax_attn.functional.mods import check_score_mod
from jax_attn.functional.reference import Attention, reference_attention
from jax_attn.functional.score_mods import ScoreMod
from jax_attn.functional.sharding import auto_mesh, in_auto_axes
from jax_attn.functional.terms import Terms, hoist

BLOCK = (128, 128)  # in which the band of a causal mask or a window is looked at
Implementation = Literal["reference", "blockwise", "xla", "cudnn", "pallas"]


@overload
def dot_product_attention(
    query: Float[Array, "*B T N H"],
    key: Float[Array, "*B S K H"],
    value: Float[Array, "*B S K Hv"],
    bias: Float[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | None = None,
    *,
    scale: float | Float[Array, ""] | None = None,
    is_causal: bool = False,
    query_seq_lengths: Int[Array, "B"] | None = None,
    key_value_seq_lengths: Int[Array, "B"] | None = None,
    local_window_size: int | tuple[int, int] | None = None,
    implementation: Implementation | None = None,
    return_residual: Literal[False] = False,
    segment_ids: Int[Array, "B T"] | tuple[Int[Array, "B T"], Int[Array, "B S"]] | None = None,
    softcap: float | None = None,
    sinks: Float[Array, "N"] | None = None,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
    score_mod: ScoreMod | None = None,
    block_mask: BlockMask | None = None,
    return_weights: Literal[False] = False,
) -> Array: ...


@overload
def dot_product_attention(
    query: Float[Array, "*B T N H"],
    key: Float[Array, "*B S K H"],
    value: Float[Array, "*B S K Hv"],
    bias: Float[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | None = None,
    *,
    scale: float | Float[Array, ""] | None = None,
    is_causal: bool = False,
    query_seq_lengths: Int[Array, "B"] | None = None,
    key_value_seq_lengths: Int[Array, "B"] | None = None,
    local_window_size: int | tuple[int, int] | None = None,
    implementation: Implementation | None = None,
    return_residual: bool = False,
    segment_ids: Int[Array, "B T"] | tuple[Int[Array, "B T"], Int[Array, "B S"]] | None = None,
    softcap: float | None = None,
    sinks: Float[Array, "N"] | None = None,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
    score_mod: ScoreMod | None = None,
    block_mask: BlockMask | None = None,
    return_weights: bool = False,
) -> Array | tuple[Array, ...]: ...


def dot_product_attention(
    query: Float[Array, "*B T N H"],
    key: Float[Array, "*B S K H"],
    value: Float[Array, "*B S K Hv"],
    bias: Float[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | None = None,
    *,
    scale: float | Float[Array, ""] | None = None,
    is_causal: bool = False,
    query_seq_lengths: Int[Array, "B"] | None = None,
    key_value_seq_lengths: Int[Array, "B"] | None = None,
    local_window_size: int | tuple[int, int] | None = None,
    implementation: Implementation | None = None,
    return_residual: bool = False,
    segment_ids: Int[Array, "B T"] | tuple[Int[Array, "B T"], Int[Array, "B S"]] | None = None,
    softcap: float | None = None,
    sinks: Float[Array, "N"] | None = None,
    dropout_rate: float = 0.0,
    dropout_key: jax.Array | None = None,
    score_mod: ScoreMod | None = None,
    block_mask: BlockMask | None = None,
    return_weights: bool = False,
) -> Array | tuple[Array, ...]:
    """`softmax(softcap(query keyᵀ · scale) + bias, over what is allowed) value`, for each head.

    A drop-in replacement of `jax.nn.dot_product_attention`: the same arguments, defaults and layouts, with
    more of them, and three differences: a query that may attend to nothing gives 0 (there: the mean of all
    values), float64 is computed in float64, and the log-sum-exp has a gradient and is float32 at least. Forward
    mode (`jax.jvp`, `jax.hessian`) and second derivatives take the whole matrix of scores, whatever its size.

    Query head `n` uses key/value head `n // (N / K)`: `K = N` is multi-head, `K = 1` multi-query attention.

    Args:
        query: `(B, T, N, H)` or `(T, N, H)`.
        key: `(B, S, K, H)` or `(S, K, H)`, where `K` divides `N`.
        value: as `key`, but `Hv` may differ from `H`.
        bias: added to the scaled scores; broadcasts against `(B, N, T, S)`. -inf closes, as a mask does.
        mask: True = attend; broadcasts against `(B, N, T, S)`.
        scale: factor of the scores, which may be traced; None is `H^-1/2`.
        is_causal: a query sees the keys up to its own position, counted from the top left.
        query_seq_lengths: `(B,)`, queries from there on are padding and give 0.
        key_value_seq_lengths: `(B,)`, keys from there on are padding that nobody sees.
        local_window_size: how many positions before and after its own a query sees; one number for both.
        implementation: which one computes; None picks the best that supports the call on this device.
        return_residual: also return the log-sum-exp of the scores, `(B, T, N)`, which may be differentiated;
            -inf where nothing is allowed; a sink counts.
        segment_ids: a query sees the keys of its own segment: `(B, T)`, or a pair for queries and keys.
        softcap: `softcap · tanh(scores / softcap)`, before the bias.
        sinks: `(N,)`, a logit for each head that takes its share of the softmax and gives no value.
        dropout_rate: probability of dropping a weight; the rest is scaled by `1 / (1 - dropout_rate)`.
        dropout_key: random key of dropout. Which weights are kept is a hash of it and of (b, n, t, s): the same in
            every implementation and sharding. Inside `jax.shard_map`, where indices are each device's own, fold
            the device's index into it.
        score_mod: `(score, b, h, q_idx, kv_idx) -> score`, as in `flex_attention`, after the soft-cap and before
            the bias.
        block_mask: as in `flex_attention`; what is causal, and a window, then belong into its `mask_mod`.
        return_weights: also return the weights that multiply the values, `(B, N, T, S)`, dropout included.

    Returns:
        the output, `(B, T, N, Hv)` or `(T, N, Hv)`; with `return_residual` or `return_weights` a tuple of
        the output, the residual if asked for, the weights if asked for.

    Raises:
        ValueError: shapes or dtypes that do not go together, dropout without a key, or an implementation
            that cannot serve the call.

    Source: Vaswani et al. (arXiv 1706.03762), section 3.2.1; `jax.nn.dot_product_attention`. GQA: 2305.13245.
        Soft-cap: 2408.00118. Sinks: 2309.17453.
    """
    q, k, v = arguments.as_operands(query, key, value)
    q, scale = arguments.as_scale(q, scale)
    batch, queries, heads, _ = q.shape
    keys = k.shape[1]
    scores = (batch, heads, queries, keys)
    check_dropout(dropout_rate, dropout_key)
    if softcap is not None:
        require_cap("softcap", softcap)
    window = arguments.as_window(local_window_size)
    if score_mod is not None:
        check_score_mod(score_mod, accumulator(q.dtype))
    if block_mask is not None:
        block_mask.check_scores(*scores)
        if is_causal or window is not None:
            raise ValueError(
                "block_mask comes with is_causal or local_window_size: say them in its mask_mod, with and_masks"
            )
    with auto_mesh(q):
        mods = {
            "score_mod": hoist(_changes_of_scores(softcap, score_mod), accumulator(q.dtype)),
            "mask_mod": None if block_mask is None else hoist(block_mask.mask_mod),
        }
    arrays = {
        **mods,
        "pattern": None if block_mask is None else pattern_of_block_mask(block_mask),
        "query": q,
        "key": k,
        "value": v,
        "bias": arguments.as_scores_like("bias", bias, scores, jnp.floating),
        "mask": arguments.as_scores_like("mask", mask, scores, jnp.bool_),
        "query_seq_lengths": arguments.as_lengths("query_seq_lengths", query_seq_lengths, batch),
        "key_value_seq_lengths": arguments.as_lengths("key_value_seq_lengths", key_value_seq_lengths, batch),
        "segment_ids": arguments.as_segments(segment_ids, batch, queries, keys),
        "sinks": arguments.as_sinks(sinks, heads),
        "dropout_key": dropout_key,
    }
    options: dict[str, Any] = {
        "scale": scale,
        "is_causal": is_causal,
        "window": window,
        "softcap": softcap,
        "rate": dropout_rate,
    }

    def compute(arrays: dict[str, Any]) -> tuple[Any, ...]:
        call = _call(arrays, **options)._replace(return_weights=return_weights, statistics=return_residual)
        result = attend(call, implementation)
        return tuple(compress((result.output, result.lse, result.weights), asked))

    asked = (True, return_residual, return_weights)
    results = in_auto_axes(compute, arrays, q, tuple(compress(("BTNH", "BTN", "BNTS"), asked)))
    if jnp.ndim(query) == 3:
        results = tuple(x[0] for x in results)
    return results if return_residual or return_weights else results[0]


def _call(
    arrays: dict[str, Any],
    scale: float,
    is_causal: bool,
    window: tuple[int, int] | None,
    softcap: float | None,
    rate: float,
) -> Call:
    """The call in the form that all implementations share."""
    q, k, v = (arrays[name] for name in ("query", "key", "value"))
    if arrays["bias"] is not None:  # -inf closes as a mask does, and behind it anything may stand
        q, k, v = emptied(q, k, v, arrays["bias"] != -jnp.inf)
    lengths, segments = (q.shape[1], k.shape[1]), arrays["segment_ids"]
    known_cap = None if isinstance(softcap, jax.Array) else softcap
    before, after = window or (None, None)
    terms = Terms(
        bias=arrays["bias"],
        mask=arrays["mask"],
        query_seq_lengths=_per_entry(arrays["query_seq_lengths"]),
        key_value_seq_lengths=_per_entry(arrays["key_value_seq_lengths"]),
        segment_ids=None
        if segments is None
        else (segments[0][:, None, :, None], segments[1][:, None, None, :]),
        score_mod=arrays["score_mod"],
        mask_mod=arrays["mask_mod"],
        dropout=make_dropout(rate, arrays["dropout_key"]),
        band=(before, 0 if is_causal else after),
        softcap=None if known_cap is None else float(known_cap),
    )

    def oracle(keep: Array | None) -> Attention:
        names = ("bias", "mask", "query_seq_lengths", "key_value_seq_lengths", "segment_ids", "sinks")
        names = (*names, "score_mod", "mask_mod")
        # A soft-cap that is traced is part of the score mod.
        options = {"scale": scale, "is_causal": is_causal, "local_window_size": window, "softcap": known_cap}
        given = {name: arrays[name] for name in names}
        return reference_attention(
            q, k, v, **given, **options, dropout_rate=rate, dropout_key=arrays["dropout_key"], keep=keep
        )

    return Call(
        q,
        k,
        v,
        terms,
        scale,
        pattern=lambda: arrays["pattern"] or pattern_of_band(lengths, BLOCK, terms.band),
        oracle=oracle,
        sinks=arrays["sinks"],
        dropout_key=arrays["dropout_key"],
    )


def _changes_of_scores(softcap: Any, score_mod: ScoreMod | None) -> ScoreMod | None:
    """What is done to the scores as a mod: a soft-cap that is traced among it; one that is known goes without."""
    if not isinstance(softcap, jax.Array):
        return score_mod
    cap = score_mods.softcap(softcap)
    if score_mod is None:
        return cap
    return lambda score, *place: score_mod(cap(score, *place), *place)


def _per_entry(x: Array | None) -> Array | None:
    return None if x is None else x[:, None, None, None]
