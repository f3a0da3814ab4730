"""Scaled dot-product attention: one function, and the implementation that suits the call."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jax_attn.functional import arguments, mask_mods, score_mods
from jax_attn.functional.block_mask import MaskMod, and_masks
from jax_attn.functional.blockwise import blockwise_attention
from jax_attn.functional.dense import dense_attention
from jax_attn.functional.pick import prefers_blockwise
from jax_attn.functional.plan import best_plan, grid_of_band
from jax_attn.functional.reference import reference_attention
from jax_attn.functional.terms import Terms, hoist
from jax_attn.functional.tiles import make_layout

Implementation = Literal["reference", "blockwise", "xla", "cudnn", "pallas"]
BLOCK = (128, 128)


def dot_product_attention(
    query: Float[Array, "*B T N H"],
    key: Float[Array, "*B S K H"],
    value: Float[Array, "*B S K Hv"],
    bias: Float[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | None = None,
    *,
    scale: float | None = None,
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
    return_weights: bool = False,
) -> Array | tuple[Array, ...]:
    """`softmax(softcap(query keyᵀ · scale) + bias, over what is allowed) value`, for each head.

    A drop-in replacement of `jax.nn.dot_product_attention`: the same arguments, defaults and layouts, with
    more of them, and two differences: a query that may attend to nothing gives 0 (there: the mean of all
    values), and float64 is computed in float64.

    Query head `n` uses key/value head `n // (N / K)`: `K = N` is multi-head, `K = 1` multi-query attention.

    Args:
        query: `(B, T, N, H)` or `(T, N, H)`.
        key: `(B, S, K, H)` or `(S, K, H)`, where `K` divides `N`.
        value: as `key`, but `Hv` may differ from `H`.
        bias: added to the scaled scores; broadcasts against `(B, N, T, S)`.
        mask: True = attend; broadcasts against `(B, N, T, S)`.
        scale: factor of the scores; None is `H^-1/2`.
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
        dropout_key: random key of dropout. The weights kept are
            `jax.random.bernoulli(dropout_key, 1 - dropout_rate, (B, N, T, S))` in every implementation.
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
    operands = arguments.as_operands(query, key, value)
    batch, queries, heads, head_dim = operands.query.shape
    keys = operands.key.shape[1]
    scores = (batch, heads, queries, keys)
    arguments.check_dropout(dropout_rate, dropout_key)
    options = dict(
        bias=arguments.as_scores_like("bias", bias, scores, jnp.floating),
        mask=arguments.as_scores_like("mask", mask, scores, jnp.bool_),
        scale=head_dim**-0.5 if scale is None else scale,
        is_causal=is_causal,
        query_seq_lengths=arguments.as_lengths("query_seq_lengths", query_seq_lengths, batch),
        key_value_seq_lengths=arguments.as_lengths("key_value_seq_lengths", key_value_seq_lengths, batch),
        local_window_size=arguments.as_window(local_window_size),
        segment_ids=arguments.as_segments(segment_ids, batch, queries, keys),
        softcap=softcap,
        sinks=arguments.as_sinks(sinks, heads),
        dropout_rate=dropout_rate,
        dropout_key=dropout_key,
    )
    if implementation is None:
        blockwise = not return_weights and dropout_rate == 0 and prefers_blockwise(*operands)
        implementation = "blockwise" if blockwise else "xla"
    if implementation not in _IMPLEMENTATIONS:
        raise ValueError(
            f"implementation must be one of {sorted(_IMPLEMENTATIONS)} or None, got {implementation!r}"
        )
    if implementation not in ("reference", "xla") and (return_weights or dropout_rate > 0):
        what = "return_weights" if return_weights else "dropout"
        raise ValueError(f"implementation {implementation!r} never holds the weights and cannot serve {what}")
    output, lse, weights = _IMPLEMENTATIONS[implementation](operands, **options)
    asked = [output, *([lse] if return_residual else []), *([weights] if return_weights else [])]
    if jnp.ndim(query) == 3:
        asked = [x[0] for x in asked]
    return asked[0] if len(asked) == 1 else tuple(asked)


def _reference(operands: arguments.Operands, **options: Any) -> tuple[Array, Array, Array]:
    result = reference_attention(*operands, **options)
    return result.output, result.lse, result.weights


def _xla(
    operands: arguments.Operands,
    *,
    scale: float,
    sinks: Array | None,
    dropout_rate: float,
    dropout_key: Array | None,
    **options: Any,
) -> tuple[Array, Array, Array]:
    terms = _terms(operands.query.dtype, **options)
    dropout = dict(dropout_rate=dropout_rate, dropout_key=dropout_key)
    output, lse, _, weights = dense_attention(*operands, terms, scale=scale, **dropout)
    if sinks is not None:
        share, lse = _share_beside_sinks(lse, sinks)
        output = (output * share[..., None]).astype(output.dtype)
        weights = (weights * share.swapaxes(1, 2)[..., None]).astype(weights.dtype)
    return output, lse, weights


def _blockwise(
    operands: arguments.Operands, *, scale: float, sinks: Array | None, **options: Any
) -> tuple[Array, Array, None]:
    query, key, _ = operands
    options = {name: x for name, x in options.items() if not name.startswith("dropout")}
    before, after = options["local_window_size"] or (None, None)
    after = 0 if options["is_causal"] else after
    lengths = (query.shape[1], key.shape[1])
    layout = make_layout(query, key, scale)
    plan = best_plan(grid_of_band(*lengths, BLOCK, before, after), BLOCK, lengths, layout.groups)
    output, lse, _ = blockwise_attention(*operands, _terms(query.dtype, **options), plan, layout)
    if sinks is not None:
        share, lse = _share_beside_sinks(lse, sinks)
        output = (output * share[..., None]).astype(output.dtype)
    return output, lse, None


def _share_beside_sinks(lse: Float[Array, "B T N"], sinks: Float[Array, "N"]) -> tuple[Array, Array]:
    """What the sinks leave of the softmax, `exp(lse - lse')`, and `lse' = log(exp(lse) + exp(sinks))`."""
    sinks = sinks.astype(lse.dtype)
    closed = lse == -jnp.inf  # a row that may attend to nothing: all goes to the sink
    safe = jnp.where(closed, 0, lse)
    share = jnp.where(closed, 0, jax.nn.sigmoid(safe - sinks))
    return share, jnp.where(closed, sinks, jnp.logaddexp(safe, sinks))


def _terms(
    dtype: Any,
    *,
    bias: Array | None,
    mask: Array | None,
    is_causal: bool,
    local_window_size: tuple[int, int] | None,
    query_seq_lengths: Array | None,
    key_value_seq_lengths: Array | None,
    segment_ids: tuple[Array, Array] | None,
    softcap: float | None,
) -> Terms:
    """The options as mods: the band of positions, which full blocks need not ask, and the masks of the data."""
    band: list[MaskMod] = []
    if is_causal:
        band.append(mask_mods.causal)
    if local_window_size is not None:
        before, after = local_window_size
        band.append(lambda b, h, q_idx, kv_idx: (kv_idx >= q_idx - before) & (kv_idx <= q_idx + after))
    data: list[MaskMod] = []
    if query_seq_lengths is not None:
        data.append(lambda b, h, q_idx, kv_idx: q_idx < query_seq_lengths[b])
    if key_value_seq_lengths is not None:
        data.append(mask_mods.padding(key_value_seq_lengths))
    if segment_ids is not None:
        data.append(mask_mods.document(*segment_ids))
    score_mod = None if softcap is None else score_mods.softcap(softcap)
    return Terms(
        bias=bias,
        mask=mask,
        score_mod=hoist(score_mod, jnp.promote_types(dtype, jnp.float32)),
        mask_mod=hoist(and_masks(*band)) if band else None,
        every_mask_mod=hoist(and_masks(*data)) if data else None,
    )


_IMPLEMENTATIONS: dict[str, Callable[..., tuple[Array, Array, Array | None]]] = {
    "reference": _reference,
    "xla": _xla,
    "blockwise": _blockwise,
}
