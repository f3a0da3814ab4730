"""Attention on TPU: kernels that walk the blocks of a block mask, and splash attention where it serves.

The grid is sequential: its last axis steps through the blocks that a block of queries (or of keys) looks at,
while sums wait in VMEM. Which block comes next stands in lists that are fetched before the kernel starts, so
empty blocks cost neither arithmetic nor traffic.

What was run where: all of it in interpret mode, against the oracle; compiled by the TPU compiler for v5e and
v5p without such a chip. Nothing here has been timed.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array, Float

from jax_attn.functional.block_mask import BlockMask
from jax_attn.functional.kernels.fused import Blocks, Fused, Visits, fused_attention
from jax_attn.functional.kernels.tile import (
    TilePlan,
    attend,
    dot,
    finish,
    gradients,
    pick,
    score_tile,
    sum_entries,
)
from jax_attn.functional.score_mods import ScoreMod

LANES = 128


def why_not_pallas(dtype: Any, block_mask: BlockMask | None = None, interpret: bool = False) -> str | None:
    """Why the TPU kernels cannot serve a call, or None if they can."""
    if interpret:
        return None
    if dtype == jnp.float64:
        return "a TPU has no float64"
    if dtype == jnp.float16:
        return "a TPU's matrix unit has no float16; bfloat16 is served"
    if block_mask is not None and any(size % LANES for size in block_mask.BLOCK_SIZE):
        return f"BLOCK_SIZE must be a multiple of {LANES} on TPU, got {block_mask.BLOCK_SIZE}"
    return None


def pallas_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K Hv"],
    score_mod: ScoreMod | None = None,
    block_mask: BlockMask | None = None,
    *,
    scale: float | None = None,
    interpret: bool = False,
    block: tuple[int, int] = (512, 512),
) -> Fused:
    """FlexAttention by the kernels of this file; gradients of everything but `max_scores`.

    Args:
        block: the size of blocks where there is no block mask.
        interpret: run the kernels as plain JAX, on any device.

    Raises:
        ValueError: see `why_not_pallas`; or `score_mod` uses the score in ways that no kernel can follow.
    """
    if reason := why_not_pallas(query.dtype, block_mask, interpret):
        raise ValueError(f"implementation='pallas' cannot serve this call: {reason}")
    if block_mask is None:
        shortest = 1 if interpret else LANES
        rows, columns = (-(-x.shape[1] // shortest) * shortest for x in (query, key))
        block = (min(block[0], rows), min(block[1], columns))
    return fused_attention(
        _KERNELS, query, key, value, score_mod, block_mask, scale=scale, block=block, interpret=interpret
    )


class _Kernels:
    """The four kernels; see `fused.Kernels`."""

    def forward(
        self, plan: TilePlan, blocks: Blocks, q: Array, k: Array, v: Array, tables: Sequence[Array]
    ) -> tuple[Array, Array, Array]:
        (batch, heads, queries, _), value_dim, wide = q.shape, v.shape[-1], _wide(q)
        grid = _Grid(plan, blocks.of_row, heads // k.shape[1])
        row = grid.spec((1, plan.tile[0]), lambda b, n, i, j: (b, n, 0, i))

        def kernel(*refs: Any) -> None:
            visits, (q_ref, k_ref, v_ref), table_refs, outputs, state = _split(refs, 3, 3, len(tables), 3)
            output_ref, lse_ref, peak_ref = outputs
            b, n, i, j = (pl.program_id(axis) for axis in range(4))

            @pl.when(j == 0)
            def start() -> None:
                for ref, x in zip(state, (-jnp.inf, 0.0, 0.0), strict=True):
                    ref[...] = jnp.full(ref.shape, x, wide)

            def step(masked: bool) -> None:
                corner = (b, n, i * plan.tile[0], grid.other(visits, b, n, i, j) * plan.tile[1])
                tile = score_tile(plan, corner, q_ref[...], k_ref[...], _reader(plan, table_refs), masked)
                for ref, x in zip(state, attend(tile, v_ref[...], tuple(r[...] for r in state)), strict=True):
                    ref[...] = x

            grid.visit(visits, b, n, i, j, step)

            @pl.when(j == plan.steps[0] - 1)
            def end() -> None:
                output, lse = finish(tuple(ref[...] for ref in state))
                output_ref[...] = output.astype(output_ref.dtype)
                lse_ref[...] = _as_row(lse)
                peak_ref[...] = _as_row(state[0][...])

        padded = jax.ShapeDtypeStruct((batch, heads, 1, queries), wide)
        output, lse, peak = grid.call(
            kernel,
            (batch, heads, queries // plan.tile[0], plan.steps[0]),
            [grid.rows_of(q), grid.columns_of(k), grid.columns_of(v), *grid.of_tables(tables)],
            [grid.rows_of(v, heads=heads), row, row],
            [jax.ShapeDtypeStruct((batch, heads, queries, value_dim), v.dtype), padded, padded],
            [
                pltpu.VMEM((plan.tile[0], 1), wide),
                pltpu.VMEM((plan.tile[0], 1), wide),
                pltpu.VMEM((plan.tile[0], value_dim), wide),
            ],
        )(q, k, v, *tables)
        return output, lse[:, :, 0], peak[:, :, 0]

    def backward_queries(
        self, plan: TilePlan, blocks: Blocks, operands: Sequence[Array], tables: Sequence[Array]
    ) -> tuple[Array, list[Array]]:
        q, k, v, do, lse, delta = operands
        (batch, heads, queries, head_dim), wide = q.shape, _wide(q)
        grid = _Grid(plan, blocks.of_row, heads // k.shape[1])
        row = grid.spec((1, plan.tile[0]), lambda b, n, i, j: (b, n, 0, i))
        own = plan.learned_by("q_idx")
        entries = [tables[number].shape[2] for number in own]

        def kernel(*refs: Any) -> None:
            visits, ins, table_refs, outputs, (dq_sum,) = _split(refs, 3, 6, len(tables), 1 + len(own))
            dq_ref, *sum_refs = outputs
            q_ref, k_ref, v_ref, do_ref, lse_ref, delta_ref = ins
            b, n, i, j = (pl.program_id(axis) for axis in range(4))

            @pl.when(j == 0)
            def start() -> None:
                for ref in (dq_sum, *sum_refs):
                    ref[...] = jnp.zeros(ref.shape, ref.dtype)

            def step(masked: bool) -> None:
                corner = (b, n, i * plan.tile[0], grid.other(visits, b, n, i, j) * plan.tile[1])
                k_tile = k_ref[...]
                tile = score_tile(plan, corner, q_ref[...], k_tile, _reader(plan, table_refs), masked)
                lse_tile, delta_tile = _as_column(lse_ref[...]), _as_column(delta_ref[...])
                _, ds, d_learned = gradients(plan, tile, v_ref[...], do_ref[...], lse_tile, delta_tile)
                dq_sum[...] += dot(ds.astype(k_tile.dtype), k_tile, (1, 0))
                for ref, number, length in zip(sum_refs, own, entries, strict=True):
                    d_tile = d_learned[plan.learned().index(number)]
                    ref[...] += sum_entries(d_tile, tile.indices[number], length, axis=1).astype(ref.dtype)

            grid.visit(visits, b, n, i, j, step)

            @pl.when(j == plan.steps[0] - 1)
            def end() -> None:
                dq_ref[...] = dq_sum[...].astype(dq_ref.dtype)

        dq, *sums = grid.call(
            kernel,
            (batch, heads, queries // plan.tile[0], plan.steps[0]),
            [
                *(grid.rows_of(q), grid.columns_of(k), grid.columns_of(v), grid.rows_of(do), row, row),
                *grid.of_tables(tables),
            ],
            [
                grid.rows_of(q),
                *(grid.spec((n, plan.tile[0]), lambda b, n, i, j: (b, n, 0, i)) for n in entries),
            ],
            [
                jax.ShapeDtypeStruct(q.shape, q.dtype),
                *(jax.ShapeDtypeStruct((batch, heads, n, queries), wide) for n in entries),
            ],
            [pltpu.VMEM((plan.tile[0], head_dim), wide)],
        )(q, k, v, do, lse[:, :, None], delta[:, :, None], *tables)
        return dq, sums

    def backward_keys(
        self, plan: TilePlan, blocks: Blocks, operands: Sequence[Array], tables: Sequence[Array]
    ) -> tuple[Array, Array, list[Array]]:
        q, k, v, do, lse, delta = operands
        (batch, heads), (kv_heads, keys), wide = q.shape[:2], k.shape[1:3], _wide(q)
        group = heads // kv_heads
        grid = _Grid(plan, blocks.of_column, group, by_column=True)
        row = grid.spec((1, plan.tile[0]), lambda b, n, i, j: (b, n, 0, i))
        own = plan.learned_by("kv_idx")
        entries = [tables[number].shape[2] for number in own]

        def kernel(*refs: Any) -> None:
            visits, ins, table_refs, outputs, sums = _split(refs, 3, 6, len(tables), 2 + len(own))
            dk_ref, dv_ref, *sum_refs = outputs
            q_ref, k_ref, v_ref, do_ref, lse_ref, delta_ref = ins
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
                corner = (b, n, grid.other(visits, b, n, i, j) * plan.tile[0], i * plan.tile[1])
                q_tile, do_tile = q_ref[...], do_ref[...]
                tile = score_tile(plan, corner, q_tile, k_ref[...], _reader(plan, table_refs), masked)
                lse_tile, delta_tile = _as_column(lse_ref[...]), _as_column(delta_ref[...])
                weights, ds, d_learned = gradients(plan, tile, v_ref[...], do_tile, lse_tile, delta_tile)
                sums[0][...] += dot(ds.astype(q_tile.dtype), q_tile, (0, 0))
                sums[1][...] += dot(weights.astype(do_tile.dtype), do_tile, (0, 0))
                for ref, number, length in zip(sum_refs, own, entries, strict=True):
                    d_tile = d_learned[plan.learned().index(number)]
                    ref[...] += sum_entries(d_tile, tile.indices[number], length, axis=0).astype(ref.dtype)

            grid.visit(visits, b, n, i, j, step)

            @pl.when((j == plan.steps[1] - 1) & (g == group - 1))
            def end() -> None:
                dk_ref[...] = sums[0][...].astype(dk_ref.dtype)
                dv_ref[...] = sums[1][...].astype(dv_ref.dtype)

        dk, dv, *sums = grid.call(
            kernel,
            (batch, kv_heads, keys // plan.tile[1], group, plan.steps[1]),
            [
                *(grid.rows_of(q), grid.columns_of(k), grid.columns_of(v), grid.rows_of(do), row, row),
                *grid.of_tables(tables),
            ],
            [
                grid.columns_of(k),
                grid.columns_of(v),
                *(grid.spec((n, plan.tile[1]), lambda b, n, i, j: (b, n, 0, j)) for n in entries),
            ],
            [
                jax.ShapeDtypeStruct(k.shape, k.dtype),
                jax.ShapeDtypeStruct(v.shape, v.dtype),
                *(jax.ShapeDtypeStruct((batch, heads, n, keys), wide) for n in entries),
            ],
            [
                pltpu.VMEM((plan.tile[1], k.shape[-1]), wide),
                pltpu.VMEM((plan.tile[1], v.shape[-1]), wide),
            ],
        )(q, k, v, do, lse[:, :, None], delta[:, :, None], *tables)
        return dk, dv, sums

    def backward_pairs(
        self, plan: TilePlan, blocks: Blocks, operands: Sequence[Array], tables: Sequence[Array], number: int
    ) -> Array:
        q, k, v, do, lse, delta = operands
        (batch, heads), group = q.shape[:2], q.shape[1] // k.shape[1]
        shape = tables[number].shape
        rows, columns = blocks.kinds.shape[2:]
        shared = (batch // shape[0], heads // shape[1])  # how many batch entries and heads add up
        kinds = Visits(blocks.kinds, *(jnp.zeros((1, 1, 1), jnp.int32),) * 2)
        grid = _PairGrid(plan, kinds, group, shared)
        row = grid.spec((1, plan.tile[0]), lambda b, n, i, j: (b, n, 0, i))

        def kernel(*refs: Any) -> None:
            visits, ins, table_refs, (sum_ref,), _ = _split(refs, 3, 6, len(tables), 1)
            q_ref, k_ref, v_ref, do_ref, lse_ref, delta_ref = ins
            b, n, i, j = grid.place(*(pl.program_id(axis) for axis in range(6)))

            @pl.when((pl.program_id(4) == 0) & (pl.program_id(5) == 0))
            def start() -> None:
                sum_ref[...] = jnp.zeros(sum_ref.shape, sum_ref.dtype)

            def step(masked: bool) -> None:
                corner = (b, n, i * plan.tile[0], j * plan.tile[1])
                tile = score_tile(plan, corner, q_ref[...], k_ref[...], _reader(plan, table_refs), masked)
                lse_tile, delta_tile = _as_column(lse_ref[...]), _as_column(delta_ref[...])
                _, _, d_learned = gradients(plan, tile, v_ref[...], do_ref[...], lse_tile, delta_tile)
                sum_ref[...] += d_learned[plan.learned().index(number)].astype(sum_ref.dtype)

            kind = grid.entry(visits[0], b, n, i, j)
            pl.when(kind == 1)(functools.partial(step, True))
            pl.when(kind == 2)(functools.partial(step, False))

        return grid.call(
            kernel,
            (shape[0], shape[1], rows, columns, *shared),
            [
                *(grid.rows_of(q), grid.columns_of(k), grid.columns_of(v), grid.rows_of(do), row, row),
                *grid.of_tables(tables),
            ],
            grid.of_tables([tables[number]])[0],
            jax.ShapeDtypeStruct(shape, tables[number].dtype),
            [],
        )(q, k, v, do, lse[:, :, None], delta[:, :, None], *tables)


_KERNELS = _Kernels()


class _Grid:
    """Where the blocks of a step lie, on a grid `(b, n, row, step)` or `(b, kv head, column, g, step)`.

    Index maps are written in terms of `(b, n, row, column)`; the lists of visits say the one that the grid
    leaves open.
    """

    def __init__(self, plan: TilePlan, visits: Visits, group: int, by_column: bool = False) -> None:
        self.plan, self.group, self.by_column = plan, group, by_column
        self.visits, self.sizes = visits, visits.order.shape

    def entry(self, flat: Any, b: Any, n: Any, i: Any, j: Any = 0, steps: int | None = None) -> Any:
        """An element of a list `(B or 1, N or 1, blocks, steps)` that lies flat in SMEM."""
        some_b, some_n, blocks, default = self.sizes
        at = (b if some_b > 1 else 0) * some_n + (n if some_n > 1 else 0)
        steps = default if steps is None else steps
        return flat[(at * blocks + i) * steps + j]

    def other(self, visits: Sequence[Any], b: Any, n: Any, i: Any, j: Any) -> Any:
        """The block that step `j` looks at; after the last one still the last one, so nothing is fetched."""
        order, _, total = visits
        last = jnp.maximum(self.entry(total, b, n, i, steps=1) - 1, 0)
        return self.entry(order, b, n, i, jnp.minimum(j, last))

    def visit(
        self, visits: Sequence[Any], b: Any, n: Any, i: Any, j: Any, step: Callable[[bool], None]
    ) -> None:
        """`step(masked)` on a partial block, without the mask on a full one, not at all on an empty one."""
        partial, total = (self.entry(x, b, n, i, steps=1) for x in visits[1:])
        pl.when(j < partial)(functools.partial(step, True))
        pl.when((j >= partial) & (j < total))(functools.partial(step, False))

    def place(self, *at: Any) -> tuple[Any, Any, Any, Any]:
        """`(b, n, row, column)` from a place on the grid and the lists."""
        if self.by_column:
            b, kv_head, column, g, step, *visits = at
            n = kv_head * self.group + g
            return b, n, self.other(visits, b, n, column, step), column
        b, n, row, step, *visits = at
        return b, n, row, self.other(visits, b, n, row, step)

    def spec(self, block: tuple[int, ...], index: Callable[..., tuple[Any, ...]]) -> pl.BlockSpec:
        """Blocks of an array that has leading axes of batch and heads."""
        return pl.BlockSpec((None, None, *block), lambda *at: index(*self.place(*at)))

    def rows_of(self, x: Array, heads: int | None = None) -> pl.BlockSpec:
        """Blocks of queries, `(tile, H)`."""
        return self.spec((self.plan.tile[0], x.shape[-1]), lambda b, n, i, j: (b, n, i, 0))

    def columns_of(self, x: Array) -> pl.BlockSpec:
        """Blocks of keys or values, `(tile, H)`."""
        return self.spec((self.plan.tile[1], x.shape[-1]), lambda b, n, i, j: (b, n // self.group, j, 0))

    def of_tables(self, tables: Sequence[Array]) -> list[pl.BlockSpec]:
        """Blocks of tables, `(R, q_tile or 1, kv_tile or 1)`."""
        return [self._of_table(table.shape) for table in tables]

    def _of_table(self, shape: tuple[int, ...]) -> pl.BlockSpec:
        whole = tuple(size > 1 for size in shape)
        tile = (self.plan.tile[0] if whole[3] else 1, self.plan.tile[1] if whole[4] else 1)

        def index(b: Any, n: Any, i: Any, j: Any) -> tuple[Any, ...]:
            return (b if whole[0] else 0, n if whole[1] else 0, 0, i if whole[3] else 0, j if whole[4] else 0)

        return self.spec((shape[2], *tile), index)

    def call(
        self,
        kernel: Callable[..., None],
        grid: tuple[int, ...],
        in_specs: Any,
        out_specs: Any,
        shapes: Any,
        scratch: Any,
    ) -> Callable[..., Any]:
        """The kernel as a function of its operands; only the first three axes of the grid are independent."""
        call = pl.pallas_call(
            kernel,
            grid_spec=pltpu.PrefetchScalarGridSpec(
                num_scalar_prefetch=3,
                grid=grid,
                in_specs=in_specs,
                out_specs=out_specs,
                scratch_shapes=scratch,
            ),
            out_shape=shapes,
            compiler_params=pltpu.CompilerParams(
                dimension_semantics=("parallel",) * 3 + ("arbitrary",) * (len(grid) - 3)
            ),
            interpret=self.plan.interpret,
        )
        return functools.partial(call, *(x.reshape(-1) for x in self.visits))


class _PairGrid(_Grid):
    """A grid over all blocks of a table of pairs, and over the batch entries and heads that share it.

    The lists are but one, of the kinds of blocks.
    """

    def __init__(self, plan: TilePlan, visits: Visits, group: int, shared: tuple[int, int]) -> None:
        super().__init__(plan, visits, group)
        self.shared = shared

    def place(self, *at: Any) -> tuple[Any, Any, Any, Any]:
        b, n, i, j, shared_b, shared_n, *_ = at
        return b * self.shared[0] + shared_b, n * self.shared[1] + shared_n, i, j


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
