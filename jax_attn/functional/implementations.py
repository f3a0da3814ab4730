"""The implementations of `dot_product_attention`: what each can serve, and which one suits a call.

Every option becomes a score mod or a mask mod, so that dot-product attention is FlexAttention with most of
its mods known beforehand.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_attn.functional import mask_mods, score_mods
from jax_attn.functional.arguments import Call
from jax_attn.functional.block_mask import MaskMod, and_masks
from jax_attn.functional.blockwise.attention import blockwise_attention
from jax_attn.functional.blockwise.plan import best_plans, grid_of_band
from jax_attn.functional.blockwise.tiles import make_layout
from jax_attn.functional.dense import dense_attention
from jax_attn.functional.reference import reference_attention
from jax_attn.functional.terms import Terms, hoist

Result = tuple[Array, Array | None, Array | None]  # output; log-sum-exp and weights, where asked for

BLOCK = (128, 128)  # in which the band of a causal mask or a window is looked at

# Below this many scores the whole matrix stays in the cache, and two products beat any number of tiles.
FEW_SCORES = 2**20


def best(call: Call) -> str:
    """The implementation that suits the call on this device.

    The kernels of an accelerator are picked where all they need is known while tracing: an array of masks or
    biases would have to be read whole. Triton's are never picked: no GPU has run them yet.
    """
    if call.return_weights or call.dropout_rate > 0 or not has_many_scores(call.query, call.key):
        return "xla"
    kernel = {"tpu": "pallas", "gpu": "cudnn"}.get(jax.default_backend())
    data = (call.bias, call.mask, call.query_seq_lengths, call.key_value_seq_lengths, call.segment_ids)
    known = all(array is None for array in data) and not call.return_residual
    if kernel is not None and known and call.query.dtype != jnp.float64 and why_not(kernel, call) is None:
        return kernel
    return "blockwise"


def has_many_scores(query: Float[Array, "B T N H"], key: Float[Array, "B S K H"]) -> bool:
    """Whether attention is better computed in tiles than over the whole matrix of scores."""
    batch, queries, heads, _ = query.shape
    return batch * heads * queries * key.shape[1] > FEW_SCORES


def why_not(implementation: str, call: Call) -> str | None:
    """Why an implementation cannot serve a call, or None if it can."""
    if implementation not in IMPLEMENTATIONS:
        return f"it is not one of {sorted(IMPLEMENTATIONS)}"
    if implementation in ("reference", "xla"):
        return None
    if call.return_weights:
        return "it never holds the weights, which return_weights asks for"
    if call.dropout_rate > 0:
        return "it never holds the weights, which dropout acts on"
    if implementation == "pallas" and jax.default_backend() not in ("tpu", "gpu"):
        return f"its kernels are for TPU and GPU, and this device is {jax.default_backend()}"
    if implementation == "cudnn":
        return _why_not_cudnn(call)
    return None


def _why_not_cudnn(call: Call) -> str | None:
    from jax_attn.functional.kernels.cudnn import why_not_cudnn

    options = call._asdict()
    operands = [options.pop(name) for name in ("query", "key", "value")]
    return why_not_cudnn(*operands, platform=jax.default_backend(), **options)


def _reference(call: Call) -> Result:
    options = call._asdict()
    operands = [options.pop(name) for name in ("query", "key", "value")]
    del options["return_weights"], options["return_residual"]
    result = reference_attention(*operands, **options)
    return result.output, result.lse, result.weights


def _xla(call: Call) -> Result:
    dropout = {"dropout_rate": call.dropout_rate, "dropout_key": call.dropout_key}
    operands = (call.query, call.key, call.value)
    output, lse, _, weights = dense_attention(*operands, _terms(call), scale=call.scale, **dropout)
    if call.sinks is None:
        return output, lse, weights
    share, lse = _beside_sinks(lse, call.sinks)
    weights = weights * share.swapaxes(1, 2)[..., None].astype(weights.dtype)
    return (output * share[..., None]).astype(output.dtype), lse, weights


def _blockwise(call: Call) -> Result:
    lengths = (call.query.shape[1], call.key.shape[1])
    before, after = call.local_window_size or (None, None)
    grid = grid_of_band(*lengths, BLOCK, before, 0 if call.is_causal else after)
    layout = make_layout(call.query, call.key, call.scale)
    plans = best_plans(grid, BLOCK, lengths, layout.groups)
    output, lse, _ = blockwise_attention(call.query, call.key, call.value, _terms(call), plans, layout)
    if call.sinks is not None:
        share, lse = _beside_sinks(lse, call.sinks)
        output = (output * share[..., None]).astype(output.dtype)
    return output, lse, None


def _pallas(call: Call) -> Result:
    from jax_attn.functional.kernels.visits import MaskTerms

    if jax.default_backend() == "tpu":
        from jax_attn.functional.kernels.tpu import tpu_attention as attend
    else:
        from jax_attn.functional.kernels.gpu import triton_attention as attend
    terms = MaskTerms(**{name: getattr(call, name) for name in MaskTerms._fields})
    score_mod = None if call.bias is None else partial(_with_bias, None, call.bias)
    options = {"scale": call.scale, "softcap": call.softcap, "residuals": False}
    output, lse, _ = attend(call.query, call.key, call.value, score_mod, terms, **options)
    if call.sinks is not None:
        share, lse = _beside_sinks(lse, call.sinks)
        output = (output * share[..., None]).astype(output.dtype)
    return output, lse, None


def _cudnn(call: Call) -> Result:
    from jax_attn.functional.kernels.cudnn import cudnn_attention

    names = ("is_causal", "query_seq_lengths", "key_value_seq_lengths", "local_window_size")
    options = {name: getattr(call, name) for name in names}
    operands = (call.query, call.key, call.value, call.bias, call.mask)
    return *cudnn_attention(*operands, scale=call.scale, **options), None


IMPLEMENTATIONS: dict[str, Callable[[Call], Result]] = {
    "reference": _reference,
    "xla": _xla,
    "blockwise": _blockwise,
    "pallas": _pallas,
    "cudnn": _cudnn,
}


def _beside_sinks(lse: Float[Array, "B T N"], sinks: Float[Array, "N"]) -> tuple[Array, Array]:
    """What the sinks leave of the softmax, `exp(lse - lse')`, and `lse' = log(exp(lse) + exp(sinks))`."""
    sinks = sinks.astype(lse.dtype)
    closed = lse == -jnp.inf  # a row that may attend to nothing: all goes to the sink
    safe = jnp.where(closed, 0, lse)
    share = jnp.where(closed, 0, jax.nn.sigmoid(safe - sinks))
    return share, jnp.where(closed, sinks, jnp.logaddexp(safe, sinks))


class _Mods(NamedTuple):
    """A call as mods: of the scores, the band of positions, and the masks that come with the data."""

    score: score_mods.ScoreMod | None
    band: list[MaskMod]
    data: list[MaskMod]


def _mods(call: Call, with_arrays: bool = True) -> _Mods:
    """The call as mods; `bias` and `mask`, which tiles take their parts of, only `with_arrays`."""
    band: list[MaskMod] = []
    if call.is_causal:
        band.append(mask_mods.causal)
    if call.local_window_size is not None:
        before, after = call.local_window_size
        band.append(lambda b, h, q_idx, kv_idx: (kv_idx >= q_idx - before) & (kv_idx <= q_idx + after))
    data: list[MaskMod] = []
    if call.query_seq_lengths is not None:
        data.append(partial(_is_query, call.query_seq_lengths))
    if call.key_value_seq_lengths is not None:
        data.append(mask_mods.padding(call.key_value_seq_lengths))
    if call.segment_ids is not None:
        data.append(mask_mods.document(*call.segment_ids))
    score = None if call.softcap is None else score_mods.softcap(call.softcap)
    if with_arrays and call.mask is not None:
        data.append(partial(_entry, call.mask))
    if with_arrays and call.bias is not None:
        score = partial(_with_bias, score, call.bias)
    return _Mods(score, band, data)


def _is_query(lengths: Array, b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
    return q_idx < lengths[b]


def _with_bias(score_mod: score_mods.ScoreMod | None, bias: Array, score: Array, *place: Array) -> Array:
    modified = score if score_mod is None else score_mod(score, *place)
    return modified + _entry(bias, *place)


def _entry(x: Array, *place: Array) -> Array:
    """The entry of an array that broadcasts against `(B, N, T, S)`."""
    return x[tuple(0 if size == 1 else at for at, size in zip(place, x.shape, strict=True))]


def _terms(call: Call) -> Terms:
    """The call's mods, with the arrays left whole."""
    score, band, data = _mods(call, with_arrays=False)
    return Terms(
        bias=call.bias,
        mask=call.mask,
        score_mod=hoist(score, jnp.promote_types(call.query.dtype, jnp.float32)),
        mask_mod=hoist(and_masks(*band)) if band else None,
        every_mask_mod=hoist(and_masks(*data)) if data else None,
    )
