"""The TPU's kernels, which Pallas hands to the compiler Mosaic: forward, dq, dk and dv, and tables of pairs.

Lists of visits go to SMEM. Those of many batch entries may not fit: then some entries come after the others,
which costs nothing where the grid is sequential anyway.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from jax_attn.functional.kernels.mosaic_grid import SMEM_BYTES, Grid, PairGrid
from jax_attn.functional.kernels.partitioning import by_batch
from jax_attn.functional.kernels.tile import (
    ScoreTile,
    TilePlan,
    attend,
    clean,
    dot,
    finish,
    gradients,
    pick,
    score_tile,
    sum_entries,
)

LANES = 128


class _Mosaic:
    """See `fused.Kernels`."""

    def forward(
        self, plan: TilePlan, origin: Any, visits: Any, operands: Sequence[Array], tables: Sequence[Array]
    ) -> list[Array]:
        return _by_batch(_forward, plan, origin, visits, operands, tables)

    def backward_queries(
        self, plan: TilePlan, origin: Any, visits: Any, operands: Sequence[Array], tables: Sequence[Array]
    ) -> list[Array]:
        return _by_batch(_backward_queries, plan, origin, visits, operands, tables)

    def backward_keys(
        self, plan: TilePlan, origin: Any, visits: Any, operands: Sequence[Array], tables: Sequence[Array]
    ) -> list[Array]:
        return _by_batch(_backward_keys, plan, origin, visits, operands, tables)

    def backward_pairs(
        self,
        plan: TilePlan,
        origin: Any,
        kinds: Any,
        operands: Sequence[Array],
        tables: Sequence[Array],
        number: int,
    ) -> list[Array]:
        kernel = functools.partial(_backward_pairs, number)
        return _by_batch(kernel, plan, origin, kinds, operands, tables)


MOSAIC = _Mosaic()


def _by_batch(
    kernel: Callable[..., list[Array]], plan: TilePlan, origin: Any, lists: Any, operands: Any, tables: Any
) -> list[Array]:
    """A kernel on as many batch entries at a time as have their lists in SMEM."""
    arrays, tree = jax.tree.flatten((operands, lists, tables))

    def call(origin: Any, *flat: Any) -> list[Array]:
        operands, lists, tables = jax.tree.unflatten(tree, flat)
        return kernel(plan, origin, lists, operands, tables)

    longest = max(jax.tree.leaves(lists), key=jnp.size)
    entries = operands[0].shape[0]
    if longest.shape[0] > 1:
        entries = max(1, SMEM_BYTES * entries // (4 * longest.size))
    return by_batch(call, entries, origin, arrays)


def _forward(
    plan: TilePlan, origin: Any, lists: Any, operands: Sequence[Array], tables: Sequence[Array]
) -> list[Array]:
    q, k, v = operands
    (batch, heads, queries, _), value_dim, wide = q.shape, v.shape[-1], _wide(q)
    grid = Grid(plan, lists, heads // k.shape[1])

    def kernel(origin_ref: Any, *refs: Any) -> None:
        visits, (q_ref, k_ref, v_ref), table_refs, outputs, state = _split(refs, 3, 3, len(tables), 3)
        output_ref, lse_ref, peak_ref = outputs
        b, n, i, j = (pl.program_id(axis) for axis in range(4))

        @pl.when(j == 0)
        def start() -> None:
            for ref, x in zip(state, (-jnp.inf, 0.0, 0.0), strict=True):
                ref[...] = jnp.full(ref.shape, x, wide)

        def step(masked: bool) -> None:
            corner = _corner(plan, origin_ref, b, n, i, grid.other(visits, b, n, i, j))
            tile = score_tile(plan, corner, q_ref[...], k_ref[...], _reader(plan, table_refs), masked)
            for ref, x in zip(state, attend(tile, v_ref[...], tuple(r[...] for r in state)), strict=True):
                ref[...] = x

        grid.visit(visits, b, n, i, j, step)

        @pl.when(j == lists.order.shape[-1] - 1)
        def end() -> None:
            output, lse = finish(tuple(ref[...] for ref in state))
            output_ref[...] = output.astype(output_ref.dtype)
            lse_ref[...] = _as_row(lse)
            peak_ref[...] = _as_row(state[0][...])

    padded = ((batch, heads, 1, queries), wide)
    output, lse, peak = grid.call(
        kernel,
        (batch, heads, queries // plan.tile[0], lists.order.shape[-1]),
        [grid.rows_of(q), grid.columns_of(k), grid.columns_of(v), *grid.of_tables(tables)],
        [grid.rows_of(v), grid.row(), grid.row()],
        [((batch, heads, queries, value_dim), v.dtype), padded, padded],
        [pltpu.VMEM((plan.tile[0], width), wide) for width in (1, 1, value_dim)],
        (origin, *lists),
        (q, k, v, *tables),
    )
    return [output, lse[:, :, 0], peak[:, :, 0]]


def _backward_queries(
    plan: TilePlan, origin: Any, lists: Any, operands: Sequence[Array], tables: Sequence[Array]
) -> list[Array]:
    q, k, v, do, lse, delta = operands
    (batch, heads, queries, head_dim), wide = q.shape, _wide(q)
    grid = Grid(plan, lists, heads // k.shape[1])
    own = plan.learned_by("q_idx")
    entries = [tables[number].shape[2] for number in own]

    def kernel(origin_ref: Any, *refs: Any) -> None:
        visits, ins, table_refs, outputs, (dq_sum,) = _split(refs, 3, 6, len(tables), 1 + len(own))
        dq_ref, *sum_refs = outputs
        b, n, i, j = (pl.program_id(axis) for axis in range(4))

        @pl.when(j == 0)
        def start() -> None:
            for ref in (dq_sum, *sum_refs):
                ref[...] = jnp.zeros(ref.shape, ref.dtype)

        def step(masked: bool) -> None:
            corner = _corner(plan, origin_ref, b, n, i, grid.other(visits, b, n, i, j))
            tile, _, ds, found = _backward_tile(plan, corner, ins, table_refs, masked)
            k_tile = clean(tile, ins[1][...], 0)
            dq_sum[...] += dot(ds.astype(k_tile.dtype), k_tile, (1, 0))
            _add_entries(sum_refs, own, entries, found, tile, axis=1)

        grid.visit(visits, b, n, i, j, step)

        @pl.when(j == lists.order.shape[-1] - 1)
        def end() -> None:
            dq_ref[...] = dq_sum[...].astype(dq_ref.dtype)

    return grid.call(
        kernel,
        (batch, heads, queries // plan.tile[0], lists.order.shape[-1]),
        [*grid.of_operands(q, k, v, do), *grid.of_tables(tables)],
        [grid.rows_of(q), *(grid.spec((n, plan.tile[0]), lambda b, n, i, j: (b, n, 0, i)) for n in entries)],
        [(q.shape, q.dtype), *(((batch, heads, n, queries), wide) for n in entries)],
        [pltpu.VMEM((plan.tile[0], head_dim), wide)],
        (origin, *lists),
        (q, k, v, do, lse[:, :, None], delta[:, :, None], *tables),
    )


def _backward_keys(
    plan: TilePlan, origin: Any, lists: Any, operands: Sequence[Array], tables: Sequence[Array]
) -> list[Array]:
    q, k, v, do, lse, delta = operands
    (batch, heads), (kv_heads, keys), wide = q.shape[:2], k.shape[1:3], _wide(q)
    group = heads // kv_heads
    grid = Grid(plan, lists, group, by_column=True)
    own = plan.learned_by("kv_idx")
    entries = [tables[number].shape[2] for number in own]

    def kernel(origin_ref: Any, *refs: Any) -> None:
        visits, ins, table_refs, outputs, sums = _split(refs, 3, 6, len(tables), 2 + len(own))
        dk_ref, dv_ref, *sum_refs = outputs
        b, i, g, j = (pl.program_id(axis) for axis in (0, 2, 3, 4))
        n = pl.program_id(1) * group + g

        @pl.when((j == 0) & (g == 0))
        def start() -> None:
            for ref in sums:
                ref[...] = jnp.zeros(ref.shape, ref.dtype)

        @pl.when(j == 0)
        def start_head() -> None:
            for ref in sum_refs:
                ref[...] = jnp.zeros(ref.shape, ref.dtype)

        def step(masked: bool) -> None:
            corner = _corner(plan, origin_ref, b, n, grid.other(visits, b, n, i, j), i)
            tile, weights, ds, found = _backward_tile(plan, corner, ins, table_refs, masked)
            q_tile, do_tile = clean(tile, ins[0][...], 1), ins[3][...]
            sums[0][...] += dot(ds.astype(q_tile.dtype), q_tile, (0, 0))
            sums[1][...] += dot(weights.astype(do_tile.dtype), do_tile, (0, 0))
            _add_entries(sum_refs, own, entries, found, tile, axis=0)

        grid.visit(visits, b, n, i, j, step)

        @pl.when((j == lists.order.shape[-1] - 1) & (g == group - 1))
        def end() -> None:
            dk_ref[...] = sums[0][...].astype(dk_ref.dtype)
            dv_ref[...] = sums[1][...].astype(dv_ref.dtype)

    return grid.call(
        kernel,
        (batch, kv_heads, keys // plan.tile[1], group, lists.order.shape[-1]),
        [*grid.of_operands(q, k, v, do), *grid.of_tables(tables)],
        [
            grid.columns_of(k),
            grid.columns_of(v),
            *(grid.spec((n, plan.tile[1]), lambda b, n, i, j: (b, n, 0, j)) for n in entries),
        ],
        [(k.shape, k.dtype), (v.shape, v.dtype), *(((batch, heads, n, keys), wide) for n in entries)],
        [pltpu.VMEM((plan.tile[1], x.shape[-1]), wide) for x in (k, v)],
        (origin, *lists),
        (q, k, v, do, lse[:, :, None], delta[:, :, None], *tables),
    )


def _backward_pairs(
    number: int, plan: TilePlan, origin: Any, kinds: Any, operands: Sequence[Array], tables: Sequence[Array]
) -> list[Array]:
    q, k, v, do, lse, delta = operands
    (batch, heads), group = q.shape[:2], q.shape[1] // k.shape[1]
    shape = tables[number].shape
    shared = (batch // shape[0], heads // shape[1])  # how many batch entries and heads add up
    grid = PairGrid(plan, kinds, group, shared)

    def kernel(origin_ref: Any, kinds_ref: Any, *refs: Any) -> None:
        ins, table_refs, (sum_ref,) = _split(refs, 6, len(tables))
        b, n, i, j = grid.place(*(pl.program_id(axis) for axis in range(6)))

        @pl.when((pl.program_id(4) == 0) & (pl.program_id(5) == 0))
        def start() -> None:
            sum_ref[...] = jnp.zeros(sum_ref.shape, sum_ref.dtype)

        def step(masked: bool) -> None:
            corner = _corner(plan, origin_ref, b, n, i, j)
            *_, found = _backward_tile(plan, corner, ins, table_refs, masked)
            sum_ref[...] += found[number].astype(sum_ref.dtype)

        kind = grid.entry(kinds_ref, b, n, i, j)
        pl.when(kind == 1)(functools.partial(step, True))
        pl.when(kind == 2)(functools.partial(step, False))

    return grid.call(
        kernel,
        (shape[0], shape[1], *kinds.shape[2:], *shared),
        [*grid.of_operands(q, k, v, do), *grid.of_tables(tables)],
        grid.of_tables([tables[number]]),
        [(shape, tables[number].dtype)],
        [],
        (origin, kinds),
        (q, k, v, do, lse[:, :, None], delta[:, :, None], *tables),
    )


def _corner(plan: TilePlan, origin_ref: Any, b: Any, n: Any, i: Any, j: Any) -> tuple[Any, ...]:
    """The first place of a tile; batch entry and head are counted in the whole arrays."""
    return origin_ref[0] + b, origin_ref[1] + n, i * plan.tile[0], j * plan.tile[1]


def _backward_tile(
    plan: TilePlan, corner: tuple[Any, ...], ins: Sequence[Any], table_refs: Sequence[Any], masked: bool
) -> tuple[ScoreTile, Array, Array, dict[int, Array]]:
    """The tile, its weights, the gradient of `q kᵀ`, and those of the tables by number."""
    q, k, v, do, lse, delta = (ref[...] for ref in ins)
    tile = score_tile(plan, corner, q, k, _reader(plan, table_refs), masked)
    weights, ds, found = gradients(plan, tile, v, do, _as_column(lse), _as_column(delta))
    return tile, weights, ds, dict(zip(plan.learned(), found, strict=True))


def _add_entries(
    refs: Sequence[Any],
    numbers: Sequence[int],
    entries: Sequence[int],
    found: Any,
    tile: ScoreTile,
    axis: int,
) -> None:
    for ref, number, length in zip(refs, numbers, entries, strict=True):
        ref[...] += sum_entries(found[number], tile.indices[number], length, axis=axis).astype(ref.dtype)


def _split(refs: Sequence[Any], *lengths: int) -> list[Sequence[Any]]:
    """The references in groups of these lengths, and the rest."""
    groups, start = [], 0
    for length in lengths:
        groups.append(refs[start : start + length])
        start += length
    return [*groups, refs[start:]]


def _reader(plan: TilePlan, refs: Sequence[Any]) -> Callable[[int, Array | None], Array]:
    def read(number: int, index: Array | None) -> Array:
        ref = refs[number]
        return pick(lambda r: ref[r], index, ref.shape[0], plan.tile)

    return read


def _wide(x: Array) -> Any:
    return jnp.promote_types(x.dtype, jnp.float32)


def _as_row(column: Array) -> Array:
    """`(n, 1)` to `(1, n)`, through a transposition that the chip has."""
    return jnp.broadcast_to(column, (column.shape[0], LANES)).T[:1]


def _as_column(row: Array) -> Array:
    """`(1, n)` to `(n, 1)`."""
    return jnp.broadcast_to(row, (LANES, row.shape[1])).T[:, :1]
