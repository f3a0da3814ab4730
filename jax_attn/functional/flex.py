"""FlexAttention: attention whose scores and mask are Python functions of positions."""

from itertools import compress
from typing import Any, Literal, NamedTuple, get_args, overload

from jaxtyping import Array, Float

from jax_attn.functional import arguments
from jax_attn.functional.block_mask import DEFAULT_BLOCK_SIZE, BlockMask
from jax_attn.functional.blockwise.plan import Pattern, pattern_of_band, pattern_of_block_mask
from jax_attn.functional.dispatch import Call, attend
from jax_attn.functional.dtypes import accumulator
from jax_attn.functional.mods import check_score_mod
from jax_attn.functional.reference import Attention, reference_attention
from jax_attn.functional.score_mods import ScoreMod
from jax_attn.functional.sharding import auto_mesh, in_auto_axes
from jax_attn.functional.terms import Mod, Terms, hoist

FlexImplementation = Literal["reference", "xla", "blockwise", "pallas"]
FLEX_IMPLEMENTATIONS = get_args(FlexImplementation)


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
        score_mod: `(score, b, h, q_idx, kv_idx) -> score` on scalars, applied to the scaled scores. -inf gives a
            weight of 0, and 0 times a NaN or infinity in that key or value is NaN: what may hold one, as padding
            may, belongs in the block mask, which is known before the products. To find keys of no weight among
            the scores would take one more pass over them, forward and backward.
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
    wide = accumulator(q.dtype)
    if score_mod is not None:
        check_score_mod(score_mod, wide)
    if block_mask is not None:
        block_mask.check_scores(batch, heads, queries, keys)
    if implementation not in (*FLEX_IMPLEMENTATIONS, None):
        known = sorted(FLEX_IMPLEMENTATIONS)
        raise ValueError(f"implementation must be one of {known} or None, got {implementation!r}")

    with auto_mesh(q):
        mods = (hoist(score_mod, wide), None if block_mask is None else hoist(block_mask.mask_mod))
    pattern = None if block_mask is None else pattern_of_block_mask(block_mask)

    def compute(arrays: Any) -> tuple[Any, ...]:
        call = _call(*arrays, scale)._replace(statistics=any(wanted))
        return tuple(compress(attend(call, implementation), (True, False, *wanted)))

    wanted = (False, False) if return_aux is None else (return_aux.lse, return_aux.max_scores)
    layouts = tuple(compress(("BTNH", "BTN", "BTN"), (True, *wanted)))
    output, *rest = in_auto_axes(compute, (q, k, v, *mods, pattern), q, layouts)
    if return_aux is None:
        return output
    found = iter(rest)
    return output, AuxOutput(*(next(found) if yes else None for yes in wanted))


def _call(
    q: Array,
    k: Array,
    v: Array,
    score_mod: Mod | None,
    mask_mod: Mod | None,
    pattern: Pattern | None,
    scale: float,
) -> Call:
    """The call in the form that all implementations share."""
    block = (DEFAULT_BLOCK_SIZE, DEFAULT_BLOCK_SIZE)

    def oracle(keep: Array | None) -> Attention:
        return reference_attention(q, k, v, scale=scale, score_mod=score_mod, mask_mod=mask_mod)

    def whole() -> Pattern:
        return pattern_of_band((q.shape[1], k.shape[1]), block) if pattern is None else pattern

    return Call(q, k, v, Terms(score_mod=score_mod, mask_mod=mask_mod), scale, whole, oracle)
