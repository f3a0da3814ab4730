"""FlexAttention: attention whose scores and mask are Python functions of positions."""

from typing import Literal, NamedTuple, overload

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_attn.functional import arguments
from jax_attn.functional.block_mask import DEFAULT_BLOCK_SIZE, BlockMask, check_mod
from jax_attn.functional.blockwise.attention import blockwise_attention
from jax_attn.functional.blockwise.plan import best_plans, grid_of_band, grid_of_block_mask
from jax_attn.functional.blockwise.tiles import make_layout
from jax_attn.functional.dense import dense_attention
from jax_attn.functional.implementations import has_many_scores
from jax_attn.functional.reference import reference_attention
from jax_attn.functional.score_mods import ScoreMod
from jax_attn.functional.terms import Terms, hoist

Result = tuple[Array, Array, Array]  # output, log-sum-exp, largest score
FlexImplementation = Literal["reference", "xla", "blockwise", "pallas"]


class AuxRequest(NamedTuple):
    """Which of the auxiliary outputs `flex_attention` should return."""

    lse: bool = False
    max_scores: bool = False


class AuxOutput(NamedTuple):
    """Auxiliary outputs, `(B, T, N)` each; None where not asked for."""

    lse: Array | None = None
    max_scores: Array | None = None


@overload
def flex_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K Hv"],
    score_mod: ScoreMod | None = None,
    block_mask: BlockMask | None = None,
    scale: float | Float[Array, ""] | None = None,
    enable_gqa: bool = False,
    *,
    return_aux: None = None,
    implementation: FlexImplementation | None = None,
) -> Array: ...


@overload
def flex_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K Hv"],
    score_mod: ScoreMod | None = None,
    block_mask: BlockMask | None = None,
    scale: float | Float[Array, ""] | None = None,
    enable_gqa: bool = False,
    *,
    return_aux: AuxRequest,
    implementation: FlexImplementation | None = None,
) -> tuple[Array, AuxOutput]: ...


def flex_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K Hv"],
    score_mod: ScoreMod | None = None,
    block_mask: BlockMask | None = None,
    scale: float | Float[Array, ""] | None = None,
    enable_gqa: bool = False,
    *,
    return_aux: AuxRequest | None = None,
    implementation: FlexImplementation | None = None,
) -> Array | tuple[Array, AuxOutput]:
    """`softmax(score_mod(query keyᵀ · scale), where the block mask allows) value`, for each head.

    torch's FlexAttention, in JAX's layout. Mods written for torch that use only arithmetic, comparisons
    and indexing run unchanged. Arrays that they capture may be traced and get their gradients. Blocks that
    the mask leaves empty are skipped, and full ones do not ask it.

    Args:
        query: `(B, T, N, H)`.
        key: `(B, S, K, H)`.
        value: `(B, S, K, Hv)`.
        score_mod: `(score, b, h, q_idx, kv_idx) -> score` on scalars, applied to the scaled scores.
        block_mask: which keys a query sees; made by `create_block_mask`. None is all of them.
        scale: factor of the scores; None is `H^-1/2`.
        enable_gqa: whether `K` may be smaller than `N` (it must divide it).
        return_aux: `AuxRequest(lse=True, max_scores=True)` returns them too; the log-sum-exp may be
            differentiated.
        implementation: which one computes; None picks the best that supports the call on this device.

    Returns:
        the output `(B, T, N, Hv)`, or with `return_aux` the output and an `AuxOutput`.

    Raises:
        ValueError: shapes or dtypes that do not go together, a mod that does not map scalars to a scalar,
            a block mask for other lengths, heads that differ without `enable_gqa`.

    Source: FlexAttention (arXiv 2412.05496); `torch.nn.attention.flex_attention`.
    """
    q, k, v = arguments.as_operands(query, key, value)
    q, scale = arguments.as_scale(q, scale)
    (batch, queries, heads, _), (_, keys, kv_heads, _) = q.shape, k.shape
    if heads != kv_heads and not enable_gqa:
        raise ValueError(
            f"query has {heads} heads and key has {kv_heads}: pass enable_gqa=True if that is meant"
        )
    wide = jnp.promote_types(q.dtype, jnp.float32)
    if score_mod is not None:
        call = "score_mod(score, b, h, q_idx, kv_idx)"
        check_mod(call, score_mod, jnp.floating, jax.ShapeDtypeStruct((), wide))
    if block_mask is not None:
        check_block_mask(block_mask, (batch, heads, queries, keys))
    if implementation is None:
        implementation = "blockwise" if has_many_scores(q, k) else "xla"
    if implementation not in _IMPLEMENTATIONS:
        known = sorted(_IMPLEMENTATIONS)
        raise ValueError(f"implementation must be one of {known} or None, got {implementation!r}")
    if not batch * queries * keys:  # an empty batch or sequence, of which no tiles can be made
        implementation = "reference"
    output, lse, max_scores = _IMPLEMENTATIONS[implementation](q, k, v, score_mod, block_mask, scale)
    if return_aux is None:
        return output
    asked = (lse if return_aux.lse else None, max_scores if return_aux.max_scores else None)
    return output, AuxOutput(*asked)


def check_block_mask(block_mask: BlockMask, scores: tuple[int, int, int, int]) -> None:
    """A ValueError unless the block mask is for scores of this shape, with B and H whole or 1."""
    expected = f"(B, H, Q_LEN, KV_LEN) = {scores}, B and H possibly 1"
    shape = block_mask.shape
    if (
        len(shape) != 4
        or shape[2:] != scores[2:]
        or any(n not in (1, m) for n, m in zip(shape, scores, strict=True))
    ):
        raise ValueError(f"block_mask must be for {expected}; it is for {shape}")


def _reference(
    q: Array, k: Array, v: Array, score_mod: ScoreMod | None, block_mask: BlockMask | None, scale: float
) -> Result:
    mask_mod = None if block_mask is None else block_mask.mask_mod
    result = reference_attention(q, k, v, scale=scale, score_mod=score_mod, mask_mod=mask_mod)
    return result.output, result.lse, result.max_scores


def _xla(
    q: Array, k: Array, v: Array, score_mod: ScoreMod | None, block_mask: BlockMask | None, scale: float
) -> Result:
    return dense_attention(q, k, v, _terms(q, score_mod, block_mask), scale=scale)[:3]


def _blockwise(
    q: Array, k: Array, v: Array, score_mod: ScoreMod | None, block_mask: BlockMask | None, scale: float
) -> Result:
    layout = make_layout(q, k, scale)
    lengths = (q.shape[1], k.shape[1])
    if block_mask is None:
        block = (DEFAULT_BLOCK_SIZE, DEFAULT_BLOCK_SIZE)
        grid = grid_of_band(*lengths, block, None, None)
    else:
        block, grid = block_mask.BLOCK_SIZE, grid_of_block_mask(block_mask)
    plans = best_plans(grid, block, lengths, layout.groups)
    return blockwise_attention(q, k, v, _terms(q, score_mod, block_mask), plans, layout)


def _pallas(
    q: Array, k: Array, v: Array, score_mod: ScoreMod | None, block_mask: BlockMask | None, scale: float
) -> Result:
    match jax.default_backend():
        case "tpu":
            from jax_attn.functional.kernels.tpu import tpu_attention as attend
        case "gpu":
            from jax_attn.functional.kernels.gpu import triton_attention as attend
        case other:
            raise ValueError(f"implementation='pallas' is for TPU and GPU, and this device is {other}")
    return tuple(attend(q, k, v, score_mod, block_mask, scale=scale))


def _terms(q: Array, score_mod: ScoreMod | None, block_mask: BlockMask | None) -> Terms:
    return Terms(
        score_mod=hoist(score_mod, jnp.promote_types(q.dtype, jnp.float32)),
        mask_mod=None if block_mask is None else hoist(block_mask.mask_mod),
    )


_IMPLEMENTATIONS = {"reference": _reference, "xla": _xla, "blockwise": _blockwise, "pallas": _pallas}
