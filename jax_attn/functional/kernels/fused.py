"""Attention by a pair of hand-written kernels: what is the same on every chip.

Layout, padding, the lists of tiles to visit, and the rule that ties a forward kernel to its backward ones.
`mosaic.py` and `triton.py` bring the kernels.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jax_attn.functional.block_mask import BlockMask, noop_mask
from jax_attn.functional.kernels.hoisting import HoistedMod
from jax_attn.functional.kernels.tile import TilePlan
from jax_attn.functional.kernels.visits import Mask, MaskTerms, Visits, make_pattern
from jax_attn.functional.score_mods import ScoreMod, softcap
from jax_attn.functional.sharding import varying

LARGEST_TABLES = 2**24  # elements; beyond, tables may be a few times as large as the arrays they come from
ORIGIN = np.zeros(2, np.int32)  # the batch entry and the head that arrays begin with


class Fused(NamedTuple):
    """What a fused attention returns.

    Attributes:
        output: `(B, T, N, Hv)`.
        lse: `(B, T, N)`, the log-sum-exp of the scores; -inf where nothing is allowed.
        max_scores: `(B, T, N)`, the largest score allowed, or -inf; it has no gradient. None where a kernel
            was taken that does not tell.
    """

    output: Array
    lse: Array
    max_scores: Array | None


Saved = tuple[Float[Array, "B T N Hv"], Float[Array, "B T N"]]


class Blocks(NamedTuple):
    """The block mask as kernels want it.

    Attributes:
        kinds: `(B, N, rows, columns)` int32: 0 empty, 1 partial, 2 full.
        of_row: tiles of keys for each tile of queries.
        of_column: tiles of queries for each tile of keys.
    """

    kinds: Any
    of_row: Visits
    of_column: Visits


@runtime_checkable
class Kernels(Protocol):
    """The kernels of a chip, on `(B, N, T, H)` with whole tiles.

    Each is called with the plan, with the batch entry and the head that its arrays begin with, with lists of
    visits and with arrays, and returns a list. A gradient of a table is `(B, N, R, T)`, `(B, N, R, S)` or, for
    pairs, of the table's own shape.
    """

    def forward(
        self, plan: TilePlan, origin: Any, visits: Visits, operands: Sequence[Array], tables: Sequence[Array]
    ) -> list[Array]:
        """Output, log-sum-exp `(B, N, T)` and maximum `(B, N, T)`; operands are q, k, v."""
        ...

    def backward_queries(
        self, plan: TilePlan, origin: Any, visits: Visits, operands: Sequence[Array], tables: Sequence[Array]
    ) -> list[Array]:
        """dq, and the gradients of `plan.learned_by("q_idx")`; operands are q, k, v, do, lse, delta."""
        ...

    def backward_keys(
        self, plan: TilePlan, origin: Any, visits: Visits, operands: Sequence[Array], tables: Sequence[Array]
    ) -> list[Array]:
        """dk, dv, and the gradients of `plan.learned_by("kv_idx")`."""
        ...

    def backward_pairs(
        self,
        plan: TilePlan,
        origin: Any,
        kinds: Any,
        operands: Sequence[Array],
        tables: Sequence[Array],
        number: int,
    ) -> list[Array]:
        """The gradient of one of `plan.learned_by("q_idx", "kv_idx")`."""
        ...


def why_not_hoisted(
    query: Any, key: Any, score_mod: ScoreMod | None, mask: Mask, softcap: float | None = None
) -> str | None:
    """Why the mods of a call cannot run in a kernel, or None if they can."""
    sizes, wide = _sizes(query, key), jnp.promote_types(query.dtype, jnp.float32)
    try:
        mods = _hoisted(score_mod, mask, softcap, sizes, wide)
    except ValueError as error:
        return str(error)
    tables, given = (
        sum(counts) for counts in zip((0, 0), *(mod.entries() for mod in mods if mod), strict=True)
    )
    if tables > max(LARGEST_TABLES, 4 * given):
        return f"its mods index arrays by pairs of positions, which takes tables of {tables:,} elements"
    return None


def fused_attention(
    kernels: Kernels,
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K Hv"],
    score_mod: ScoreMod | None = None,
    mask: Mask = None,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    block: tuple[int, int],
    largest_tile: tuple[int, int] | None = None,
    interpret: bool = False,
    saved: Saved | None = None,
) -> Fused:
    """`softmax(score_mod(softcap(query keyᵀ · scale)), where allowed) value`, and its gradients, by `kernels`.

    Args:
        block: queries and keys in a block of the lists of visits; a multiple of a block mask's own.
        largest_tile: the largest tile that the kernels take; None takes a block at a time.
        interpret: run the kernels as plain JAX, on any device.
        saved: output and log-sum-exp of the same call, of which only gradients are wanted.

    Raises:
        ValueError: `score_mod` uses the score in ways that no kernel can follow.
    """
    sizes = (_, _, queries, keys) = _sizes(query, key)
    wide = jnp.promote_types(query.dtype, jnp.float32)
    pattern = make_pattern(mask, (queries, keys), block)
    rows, columns = pattern.kinds.shape[2:]
    blocks = Blocks(pattern.kinds.astype(jnp.int32), pattern.of_rows(), pattern.of_columns())
    score, allowed = _hoisted(score_mod, mask, softcap, sizes, wide)
    largest = block if largest_tile is None else largest_tile
    plan = TilePlan(
        scale=query.shape[3] ** -0.5 if scale is None else scale,
        lengths=(queries, keys),
        block=block,
        tile=(min(block[0], largest[0]), min(block[1], largest[1])),
        score_mod=score,
        mask_mod=allowed,
        steps=pattern.steps,
        interpret=interpret,
    )
    missing = (rows * block[0] - queries, columns * block[1] - keys)
    q, k, v = (
        jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (0, extra), (0, 0)))
        for x, extra in zip(
            _without_padding(query, key, value, mask), (missing[0], *missing[1:] * 2), strict=True
        )
    )
    tables = [
        _pad_positions(table, missing) for mod in (score, allowed) if mod for table in mod.take_tables()
    ]
    learned = plan.learned()
    if saved is not None:
        rows_missing = [(0, 0), (0, 0), (0, missing[0])]
        saved = (
            jnp.pad(saved[0].swapaxes(1, 2), [*rows_missing, (0, 0)]),
            jnp.pad(saved[1].swapaxes(1, 2), rows_missing),
        )
    output, lse, peak = _attention(
        kernels,
        plan,
        *varying(
            (
                q,
                k,
                v,
                [tables[i] for i in learned],
                [jax.lax.stop_gradient(table) for i, table in enumerate(tables) if i not in learned],
                blocks,
                saved,
            )
        ),
    )
    return Fused(*(x[:, :, :queries].swapaxes(1, 2) for x in (output, lse, jax.lax.stop_gradient(peak))))


def _sizes(query: Any, key: Any) -> tuple[int, int, int, int]:
    (batch, queries, heads, _), keys = query.shape, key.shape[1]
    return batch, heads, queries, keys


def _hoisted(
    score_mod: ScoreMod | None, mask: Mask, cap: float | None, sizes: tuple[int, int, int, int], wide: Any
) -> tuple[HoistedMod | None, HoistedMod | None]:
    """The score mod with its cap, and the mask, as a kernel sees them."""
    modified = score_mod
    if cap is not None:
        capped = modified = softcap(cap)
        if score_mod is not None:
            modified = lambda score, *at: score_mod(capped(score, *at), *at)  # noqa: E731
    mask_mod = mask.mask_mod if isinstance(mask, BlockMask) else (mask or MaskTerms()).mask_mod()
    return (
        None if modified is None else HoistedMod(modified, sizes, wide),
        None if mask_mod is None or mask_mod is noop_mask else HoistedMod(mask_mod, sizes),
    )


def _without_padding(query: Array, key: Array, value: Array, mask: Mask) -> tuple[Array, Array, Array]:
    """0 in place of what lies behind the lengths, which may be anything, NaN too."""

    def within(x: Array, lengths: Array | None) -> Array:
        if lengths is None:
            return x
        inside = jnp.arange(x.shape[1]) < lengths[:, None]
        return jnp.where(inside[:, :, None, None], x, 0)

    if not isinstance(mask, MaskTerms):
        return query, key, value
    key, value = (within(x, mask.key_value_seq_lengths) for x in (key, value))
    return within(query, mask.query_seq_lengths), key, value


def _pad_positions(table: Array, missing: tuple[int, int]) -> Array:
    widths = [(0, extra if size > 1 else 0) for size, extra in zip(table.shape[3:], missing, strict=True)]
    return jnp.pad(table, ((0, 0), (0, 0), (0, 0), *widths))


def _merge(plan: TilePlan, learned: Sequence[Array], others: Sequence[Array]) -> list[Array]:
    """The tables in the order of the lookups."""
    numbers, floats, rest = plan.learned(), iter(learned), iter(others)
    return [next(floats) if i in numbers else next(rest) for i in range(len(learned) + len(others))]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attention(
    kernels: Kernels,
    plan: TilePlan,
    q: Array,
    k: Array,
    v: Array,
    learned: list[Array],
    others: list[Array],
    blocks: Blocks,
    saved: Saved | None,
) -> tuple[Array, ...]:
    if saved is not None:
        return *saved, saved[1]
    tables = _merge(plan, learned, others)
    return tuple(kernels.forward(plan, ORIGIN, blocks.of_row, (q, k, v), tables))


def _forward(kernels: Kernels, plan: TilePlan, *operands: Any) -> tuple[Any, Any]:
    output, lse, peak = _attention(kernels, plan, *operands)
    return (output, lse, peak), (*operands[:-1], output, lse)


def _backward(kernels: Kernels, plan: TilePlan, saved: Any, cotangents: Any) -> tuple[Any, ...]:
    q, k, v, learned, others, blocks, output, lse = saved
    d_output, d_lse, _ = cotangents
    tables = _merge(plan, learned, others)
    delta = jnp.sum(output.astype(lse.dtype) * d_output.astype(lse.dtype), axis=-1) - d_lse
    operands = (q, k, v, d_output, lse, delta)
    dq, *of_queries = kernels.backward_queries(plan, ORIGIN, blocks.of_row, operands, tables)
    dk, dv, *of_keys = kernels.backward_keys(plan, ORIGIN, blocks.of_column, operands, tables)

    numbers = plan.learned()
    found: dict[int, Array] = {}
    for number, sums in zip(plan.learned_by("q_idx"), of_queries, strict=True):
        found[number] = _fold(sums[..., :, None], tables[number].shape)
    for number, sums in zip(plan.learned_by("kv_idx"), of_keys, strict=True):
        found[number] = _fold(sums[..., None, :], tables[number].shape)
    for number in plan.learned_by("q_idx", "kv_idx"):
        (found[number],) = kernels.backward_pairs(plan, ORIGIN, blocks.kinds, operands, tables, number)
    return dq, dk, dv, [found[number].astype(tables[number].dtype) for number in numbers], None, None, None


def _fold(sums: Array, shape: tuple[int, ...]) -> Array:
    """Sums over the axes that the table does not have."""
    axes = tuple(i for i, (n, m) in enumerate(zip(sums.shape, shape, strict=True)) if m == 1 and n > 1)
    return jnp.sum(sums, axis=axes, keepdims=True).reshape(shape)


_attention.defvjp(_forward, _backward)
