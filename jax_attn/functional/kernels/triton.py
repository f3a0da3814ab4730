"""The GPU's kernels, which Pallas hands to Triton: forward, dq, dk and dv, and tables of pairs.

A program takes one tile of queries (or of keys) and loops over the tiles that the block mask lists for it,
with its sums in registers. No two programs write to the same place, so every gradient is deterministic.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu
from jaxtyping import Array

from jax_attn.functional.kernels.partitioning import like
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


class _Triton:
    """See `fused.Kernels`."""

    def forward(
        self, plan: TilePlan, origin: Any, visits: Any, operands: Sequence[Array], tables: Sequence[Array]
    ) -> list[Array]:
        q, k, v = operands
        (batch, heads, queries, _), value_dim, wide = q.shape, v.shape[-1], _wide(q)
        group = heads // k.shape[1]
        rows, columns = plan.tile

        def kernel(origin_ref: Any, *refs: Any) -> None:
            lists, (q_ref, k_ref, v_ref), table_refs, outputs = _split(refs, 3, 3, len(tables))
            output_ref, lse_ref, peak_ref = outputs
            i, n, b = (pl.program_id(axis) for axis in range(3))
            own = (b, n, pl.ds(i * rows, rows))
            q_tile = q_ref[(*own, slice(None))]

            def step(start: Array, state: Any, masked: bool) -> Any:
                theirs = (b, n // group, pl.ds(start, columns), slice(None))
                corner = (b, n, i * rows, start)
                tile = score_tile(
                    plan,
                    _whole(origin_ref, corner),
                    q_tile,
                    k_ref[theirs],
                    _reader(plan, corner, table_refs),
                    masked,
                )
                return attend(tile, v_ref[theirs], state)

            state = (
                jnp.full((rows, 1), -jnp.inf, wide),
                jnp.zeros((rows, 1), wide),
                jnp.zeros((rows, value_dim), wide),
            )
            state = _visit(lists, (b, n, i), (rows, columns), plan.block, step, state)
            output, lse = finish(state)
            output_ref[(*own, slice(None))] = output.astype(output_ref.dtype)
            lse_ref[own] = lse.reshape(rows)
            peak_ref[own] = state[0].reshape(rows)

        row_shape = like((batch, heads, queries), wide, q)
        shapes = [like((batch, heads, queries, value_dim), v.dtype, q), row_shape, row_shape]
        call = _call(plan, kernel, (queries // rows, heads, batch), shapes)
        return list(call(origin, *visits, q, k, v, *tables))

    def backward_queries(
        self, plan: TilePlan, origin: Any, visits: Any, operands: Sequence[Array], tables: Sequence[Array]
    ) -> list[Array]:
        q, k = operands[:2]
        (batch, heads, queries, head_dim), wide = q.shape, _wide(q)
        group = heads // k.shape[1]
        rows, columns = plan.tile
        learned = plan.learned_by("q_idx")
        entries = [pl.next_power_of_2(tables[number].shape[2]) for number in learned]

        def kernel(origin_ref: Any, *refs: Any) -> None:
            lists, ins, table_refs, (dq_ref, *sum_refs) = _split(refs, 3, 6, len(tables))
            i, n, b = (pl.program_id(axis) for axis in range(3))
            own = (b, n, pl.ds(i * rows, rows), slice(None))

            def step(start: Array, state: Any, masked: bool) -> Any:
                dq, sums = state
                corner = (b, n, i * rows, start)
                loaded = _load(plan, corner, group, ins)
                tile, _, ds, d_learned = _backward_tile(plan, origin_ref, corner, loaded, table_refs, masked)
                added = (
                    sum_entries(d_learned[number], tile.indices[number], length, axis=1)
                    for number, length in zip(learned, entries, strict=True)
                )
                k_tile = clean(tile, loaded[1], 0)
                dq += dot(ds.astype(k_tile.dtype), k_tile, (1, 0))
                return dq, [a + b for a, b in zip(sums, added, strict=True)]

            state = (jnp.zeros((rows, head_dim), wide), [jnp.zeros((n, rows), wide) for n in entries])
            dq, sums = _visit(lists, (b, n, i), (rows, columns), plan.block, step, state)
            dq_ref[own] = dq.astype(dq_ref.dtype)
            for ref, x in zip(sum_refs, sums, strict=True):
                ref[b, n, :, pl.ds(i * rows, rows)] = x

        shapes = [like((batch, heads, n, queries), wide, q) for n in entries]
        call = _call(
            plan,
            kernel,
            (queries // rows, heads, batch),
            [like(q.shape, q.dtype, q), *shapes],
        )
        dq, *sums = call(origin, *visits, *operands, *tables)
        return [dq, *(x[:, :, : tables[number].shape[2]] for x, number in zip(sums, learned, strict=True))]

    def backward_keys(
        self, plan: TilePlan, origin: Any, visits: Any, operands: Sequence[Array], tables: Sequence[Array]
    ) -> list[Array]:
        q, k, v = operands[:3]
        (batch, heads), (kv_heads, keys), wide = q.shape[:2], k.shape[1:3], _wide(q)
        group = heads // kv_heads
        rows, columns = plan.tile
        learned = plan.learned_by("kv_idx")
        entries = [pl.next_power_of_2(tables[number].shape[2]) for number in learned]

        def kernel(origin_ref: Any, *refs: Any) -> None:
            lists, ins, table_refs, (dk_ref, dv_ref, *sum_refs) = _split(refs, 3, 6, len(tables))
            i, kv_head, b = (pl.program_id(axis) for axis in range(3))
            own = (b, kv_head, pl.ds(i * columns, columns), slice(None))

            def of_head(g: Array, state: Any) -> Any:
                n = kv_head * group + g

                def step(start: Array, state: Any, masked: bool) -> Any:
                    dk, dv, sums = state
                    corner = (b, n, start, i * columns)
                    loaded = _load(plan, corner, group, ins)
                    tile, weights, ds, d_learned = _backward_tile(
                        plan, origin_ref, corner, loaded, table_refs, masked
                    )
                    q_tile, do_tile = clean(tile, loaded[0], 1), loaded[3]
                    added = (
                        sum_entries(d_learned[number], tile.indices[number], length, axis=0)
                        for number, length in zip(learned, entries, strict=True)
                    )
                    dk += dot(ds.astype(q_tile.dtype), q_tile, (0, 0))
                    dv += dot(weights.astype(do_tile.dtype), do_tile, (0, 0))
                    return dk, dv, [a + b for a, b in zip(sums, added, strict=True)]

                none = [jnp.zeros((n, columns), wide) for n in entries]
                sizes = ((columns, rows), plan.block[::-1])
                *state, sums = _visit(lists, (b, n, i), *sizes, step, (*state, none))
                for ref, x in zip(sum_refs, sums, strict=True):
                    ref[b, n, :, pl.ds(i * columns, columns)] = x
                return tuple(state)

            state = tuple(jnp.zeros((columns, x.shape[-1]), wide) for x in (k, v))
            dk, dv = _loop(0, group, of_head, state)
            dk_ref[own] = dk.astype(dk_ref.dtype)
            dv_ref[own] = dv.astype(dv_ref.dtype)

        shapes = [like((batch, heads, n, keys), wide, q) for n in entries]
        call = _call(
            plan,
            kernel,
            (keys // columns, kv_heads, batch),
            [*(like(x.shape, x.dtype, q) for x in (k, v)), *shapes],
        )
        dk, dv, *sums = call(origin, *visits, *operands, *tables)
        return [
            dk,
            dv,
            *(x[:, :, : tables[number].shape[2]] for x, number in zip(sums, learned, strict=True)),
        ]

    def backward_pairs(
        self,
        plan: TilePlan,
        origin: Any,
        kinds: Any,
        operands: Sequence[Array],
        tables: Sequence[Array],
        number: int,
    ) -> list[Array]:
        q, k = operands[:2]
        (batch, heads), group, wide = q.shape[:2], q.shape[1] // k.shape[1], _wide(q)
        shape = tables[number].shape
        shared = (batch // shape[0], heads // shape[1])  # how many batch entries and heads add up
        rows, columns = plan.tile
        kinds_shape = kinds.shape

        def kernel(origin_ref: Any, kinds_ref: Any, *refs: Any) -> None:
            ins, table_refs, (sum_ref,) = _split(refs, 6, len(tables))
            row, column, head = (pl.program_id(axis) for axis in range(3))
            own_b, own_n = _div(head, shape[1]), _rem(head, shape[1])

            def add(t: Array, total: Array) -> Array:
                b = own_b * shared[0] + _div(t, shared[1])
                n = own_n * shared[1] + _rem(t, shared[1])
                corner = (b, n, row * rows, column * columns)
                place = (b if kinds_shape[0] > 1 else 0, n if kinds_shape[1] > 1 else 0)
                kind = kinds_ref[
                    (*place, *(_div(x, size) for x, size in zip(corner[2:], plan.block, strict=True)))
                ]

                def visited(turn: Array, total: Array) -> Array:
                    loaded = _load(plan, corner, group, ins)
                    *_, d_learned = _backward_tile(plan, origin_ref, corner, loaded, table_refs, masked=True)
                    return total + d_learned[number]

                return _loop(0, kind > 0, visited, total)

            total = _loop(0, shared[0] * shared[1], add, jnp.zeros((rows, columns), wide))
            at = (pl.ds(row * rows, rows), pl.ds(column * columns, columns))
            sum_ref[(own_b, own_n, 0, *at)] = total.astype(sum_ref.dtype)

        grid = (shape[3] // rows, shape[4] // columns, shape[0] * shape[1])
        out = like(shape, tables[number].dtype, q)
        return list(_call(plan, kernel, grid, [out])(origin, kinds, *operands, *tables))


TRITON = _Triton()


def _call(
    plan: TilePlan, kernel: Callable[..., None], grid: tuple[int, ...], shapes: Any
) -> Callable[..., Any]:
    """The kernel as a function of its operands, which stay in the GPU's memory."""
    return pl.pallas_call(
        kernel,
        grid=grid,
        out_shape=shapes,
        compiler_params=plgpu.CompilerParams(num_warps=4, num_stages=2),
        interpret=plan.interpret,
    )


def _visit(
    visits: Sequence[Any],
    own: tuple[Array, Array, Array],
    tile: tuple[int, int],
    block: tuple[int, int],
    step: Callable[[Array, Any, bool], Any],
    state: Any,
) -> Any:
    """`state = step(start, state, masked)` for the tiles of each listed block, the partial ones first.

    Args:
        own: batch entry, head, and number of the own tile.
        tile, block: sizes on the own side and on the other side.
    """
    order, partial, total = visits
    b, n, i = own
    place = (b if order.shape[0] > 1 else 0, n if order.shape[1] > 1 else 0, _div(i * tile[0], block[0]))
    per_block = block[1] // tile[1]

    def at(t: Array, state: Any, masked: bool) -> Any:
        start = order[(*place, _div(t, per_block))] * block[1] + _rem(t, per_block) * tile[1]
        return step(start, state, masked)

    few, all_ = partial[place] * per_block, total[place] * per_block
    state = _loop(0, few, lambda t, state: at(t, state, True), state)
    return _loop(few, all_, lambda t, state: at(t, state, False), state)


def _whole(origin_ref: Any, corner: tuple[Any, ...]) -> tuple[Any, ...]:
    """A corner with batch entry and head counted in the whole arrays."""
    return origin_ref[0] + corner[0], origin_ref[1] + corner[1], *corner[2:]


def _load(plan: TilePlan, corner: tuple[Any, ...], group: int, ins: Sequence[Any]) -> list[Array]:
    """The tiles of q, k, v, do, and of lse and delta as columns."""
    b, n, q_start, kv_start = corner
    rows = (b, n, pl.ds(q_start, plan.tile[0]))
    columns = (b, _div(n, group), pl.ds(kv_start, plan.tile[1]), slice(None))
    q_ref, k_ref, v_ref, do_ref, lse_ref, delta_ref = ins
    return [
        q_ref[(*rows, slice(None))],
        k_ref[columns],
        v_ref[columns],
        do_ref[(*rows, slice(None))],
        lse_ref[rows][:, None],
        delta_ref[rows][:, None],
    ]


def _backward_tile(
    plan: TilePlan,
    origin_ref: Any,
    corner: tuple[Any, ...],
    loaded: Sequence[Array],
    table_refs: Sequence[Any],
    masked: bool,
) -> tuple[ScoreTile, Array, Array, dict[int, Array]]:
    """The tile, its weights, the gradient of `q kᵀ`, and those of the tables by number."""
    q, k, v, do, lse, delta = loaded
    tile = score_tile(plan, _whole(origin_ref, corner), q, k, _reader(plan, corner, table_refs), masked)
    weights, ds, d_learned = gradients(plan, tile, v, do, lse, delta)
    return tile, weights, ds, dict(zip(plan.learned(), d_learned, strict=True))


def _reader(
    plan: TilePlan, corner: tuple[Any, ...], refs: Sequence[Any]
) -> Callable[[int, Array | None], Array]:
    b, n, *starts = corner

    def read(number: int, index: Array | None) -> Array:
        ref = refs[number]
        place = (b if ref.shape[0] > 1 else 0, n if ref.shape[1] > 1 else 0)
        spans = [
            pl.ds(start, size) if length > 1 else pl.ds(0, 1)
            for start, size, length in zip(starts, plan.tile, ref.shape[3:], strict=True)
        ]
        return pick(lambda r: ref[(*place, r, *spans)], index, ref.shape[2], plan.tile)

    return read


def _split(refs: Sequence[Any], *lengths: int) -> list[Sequence[Any]]:
    """The references in groups of these lengths, and the rest."""
    groups, start = [], 0
    for length in lengths:
        groups.append(refs[start : start + length])
        start += length
    return [*groups, refs[start:]]


def _div(x: Array, by: int) -> Array:
    return lax.div(x, jnp.int32(by))


def _rem(x: Array, by: int) -> Array:
    return lax.rem(x, jnp.int32(by))


def _loop(start: Any, stop: Any, body: Callable[[Array, Any], Any], state: Any) -> Any:
    """A loop that counts in 32 bits, also where JAX is set to 64."""
    return lax.fori_loop(jnp.int32(start), jnp.int32(stop), body, state)


def _wide(x: Array) -> Any:
    return jnp.promote_types(x.dtype, jnp.float32)
