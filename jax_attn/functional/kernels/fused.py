"""Attention by a pair of hand-written kernels: what is the same on every chip.

Layout, padding, the lists of blocks to visit, and the rule that ties a forward kernel to its backward ones.
`tpu.py` and `gpu.py` bring the kernels.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jax_attn.functional.block_mask import BlockMask, noop_mask
from jax_attn.functional.blockwise.plan import EMPTY, FULL, PARTIAL, grid_of_block_mask
from jax_attn.functional.kernels.hoisting import HoistedMod
from jax_attn.functional.kernels.tile import TilePlan
from jax_attn.functional.score_mods import ScoreMod


class Fused(NamedTuple):
    """What a fused attention returns.

    Attributes:
        output: `(B, T, N, Hv)`.
        lse: `(B, T, N)`, the log-sum-exp of the scores; -inf where nothing is allowed.
        max_scores: `(B, T, N)`, the largest score allowed, or -inf; it has no gradient.
    """

    output: Array
    lse: Array
    max_scores: Array


class Visits(NamedTuple):
    """Which blocks to look at: for each block of one side those of the other, the partial ones first.

    Attributes:
        order: `(B, N, blocks, steps)` int32, B and N possibly 1.
        partial: `(B, N, blocks)` int32, how many of them need the mask.
        total: `(B, N, blocks)` int32, how many there are.
    """

    order: Int[Array | np.ndarray, "B N blocks steps"]
    partial: Int[Array | np.ndarray, "B N blocks"]
    total: Int[Array | np.ndarray, "B N blocks"]


class Blocks(NamedTuple):
    """The block mask as kernels want it.

    Attributes:
        kinds: `(B, N, rows, columns)` int32: 0 empty, 1 partial, 2 full.
        of_row: blocks of keys for each block of queries.
        of_column: blocks of queries for each block of keys.
    """

    kinds: Int[Array | np.ndarray, "B N rows columns"]
    of_row: Visits
    of_column: Visits


@runtime_checkable
class Kernels(Protocol):
    """The kernels of a chip, on `(B, N, T, H)` with whole blocks.

    A gradient of a table is `(B, N, R, T)`, `(B, N, R, S)` or, for `pairs`, of the table's own shape.
    """

    def forward(
        self, plan: TilePlan, blocks: Blocks, q: Array, k: Array, v: Array, tables: Sequence[Array]
    ) -> tuple[Array, Array, Array]:
        """Output, log-sum-exp `(B, N, T)` and maximum `(B, N, T)`."""
        ...

    def backward_queries(
        self, plan: TilePlan, blocks: Blocks, operands: Sequence[Array], tables: Sequence[Array]
    ) -> tuple[Array, list[Array]]:
        """dq, and the gradients of `plan.learned_by("q_idx")`; operands are q, k, v, do, lse, delta."""
        ...

    def backward_keys(
        self, plan: TilePlan, blocks: Blocks, operands: Sequence[Array], tables: Sequence[Array]
    ) -> tuple[Array, Array, list[Array]]:
        """dk, dv, and the gradients of `plan.learned_by("kv_idx")`."""
        ...

    def backward_pairs(
        self, plan: TilePlan, blocks: Blocks, operands: Sequence[Array], tables: Sequence[Array], number: int
    ) -> Array:
        """The gradient of one of `plan.learned_by("q_idx", "kv_idx")`."""
        ...


def fused_attention(
    kernels: Kernels,
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K Hv"],
    score_mod: ScoreMod | None = None,
    block_mask: BlockMask | None = None,
    *,
    scale: float | None = None,
    block: tuple[int, int],
    largest_tile: tuple[int, int] | None = None,
    interpret: bool = False,
) -> Fused:
    """`softmax(score_mod(query keyᵀ · scale), where the mask allows) value`, and its gradients, by `kernels`.

    Args:
        block: the size of blocks where there is no block mask to say it.
        largest_tile: the largest tile that the kernels take; None takes a block at a time.
        interpret: run the kernels as plain JAX, on any device.

    Raises:
        ValueError: `score_mod` uses the score in ways that no kernel can follow.
    """
    (batch, queries, heads, head_dim), keys = query.shape, key.shape[1]
    sizes = (batch, heads, queries, keys)
    wide = jnp.promote_types(query.dtype, jnp.float32)
    block = block if block_mask is None else block_mask.BLOCK_SIZE
    largest = block if largest_tile is None else largest_tile
    rows, columns = (-(-length // size) for length, size in zip((queries, keys), block, strict=True))
    if block_mask is None:
        kinds = np.full((1, 1, rows, columns), FULL, np.int32)
    else:
        kinds = grid_of_block_mask(block_mask).astype(np.int32)
    blocks = Blocks(kinds, _visits(kinds), _visits(kinds.swapaxes(2, 3)))

    score = None if score_mod is None else HoistedMod(score_mod, sizes, wide)
    mask = None
    if block_mask is not None and block_mask.mask_mod is not noop_mask:
        mask = HoistedMod(block_mask.mask_mod, sizes)
    plan = TilePlan(
        scale=head_dim**-0.5 if scale is None else scale,
        lengths=(queries, keys),
        block=block,
        tile=(min(block[0], largest[0]), min(block[1], largest[1])),
        score_mod=score,
        mask_mod=mask,
        steps=(blocks.of_row.order.shape[-1], blocks.of_column.order.shape[-1]),
        interpret=interpret,
    )
    missing = (rows * block[0] - queries, columns * block[1] - keys)
    q, k, v = (
        jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (0, extra), (0, 0)))
        for x, extra in ((query, missing[0]), (key, missing[1]), (value, missing[1]))
    )
    tables = [
        _pad_positions(table, missing) for mod in (score, mask) if mod is not None for table in mod.tables
    ]
    learned = plan.learned()
    output, lse, peak = _attention(
        kernels,
        plan,
        q,
        k,
        v,
        [tables[i] for i in learned],
        [jax.lax.stop_gradient(table) for i, table in enumerate(tables) if i not in learned],
        blocks,
    )
    return Fused(*(x[:, :, :queries].swapaxes(1, 2) for x in (output, lse, jax.lax.stop_gradient(peak))))


def _visits(kinds: Int[Array | np.ndarray, "B N blocks others"]) -> Visits:
    xp = np if isinstance(kinds, np.ndarray) else jnp
    order = xp.argsort((kinds + 2) % 3, axis=-1, stable=True).astype(xp.int32)  # 1, 2, then 0
    partial, total = ((kinds == PARTIAL).sum(-1, dtype=xp.int32), (kinds > EMPTY).sum(-1, dtype=xp.int32))
    # Where the mask is known now, no kernel need step through what every row leaves out.
    steps = max(1, int(total.max())) if xp is np else order.shape[-1]
    return Visits(order[..., :steps], partial, total)


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
) -> tuple[Array, Array, Array]:
    return kernels.forward(plan, blocks, q, k, v, _merge(plan, learned, others))


def _forward(kernels: Kernels, plan: TilePlan, *operands: Any) -> tuple[Any, Any]:
    output, lse, peak = _attention(kernels, plan, *operands)
    return (output, lse, peak), (*operands, output, lse)


def _backward(kernels: Kernels, plan: TilePlan, saved: Any, cotangents: Any) -> tuple[Any, ...]:
    q, k, v, learned, others, blocks, output, lse = saved
    d_output, d_lse, _ = cotangents
    tables = _merge(plan, learned, others)
    delta = jnp.sum(output.astype(lse.dtype) * d_output.astype(lse.dtype), axis=-1) - d_lse
    operands = (q, k, v, d_output, lse, delta)
    dq, of_queries = kernels.backward_queries(plan, blocks, operands, tables)
    dk, dv, of_keys = kernels.backward_keys(plan, blocks, operands, tables)

    numbers = plan.learned()
    found: dict[int, Array] = {}
    for number, sums in zip(plan.learned_by("q_idx"), of_queries, strict=True):
        found[number] = _fold(sums[..., :, None], tables[number].shape)
    for number, sums in zip(plan.learned_by("kv_idx"), of_keys, strict=True):
        found[number] = _fold(sums[..., None, :], tables[number].shape)
    for number in plan.learned_by("q_idx", "kv_idx"):
        found[number] = kernels.backward_pairs(plan, blocks, operands, tables, number)
    return dq, dk, dv, [found[number].astype(tables[number].dtype) for number in numbers], None, None


def _fold(sums: Array, shape: tuple[int, ...]) -> Array:
    """Sums over the axes that the table does not have."""
    axes = tuple(i for i, (n, m) in enumerate(zip(sums.shape, shape, strict=True)) if m == 1 and n > 1)
    return jnp.sum(sums, axis=axes, keepdims=True).reshape(shape)


_attention.defvjp(_forward, _backward)
