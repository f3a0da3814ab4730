"""The kernels' arithmetic in XLA's own operations, which XLA can divide among devices.

Batch entries and heads are axes of every operation; tiles come one after the other, so that memory stays
linear in the length. Tables, lists and sums are those of the kernels, so either can go on where the other began.
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jax_attn.functional.kernels.tile import (
    Read,
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


class _Plain:
    """See `fused.Kernels`; a tile is a block here."""

    def forward(
        self, plan: TilePlan, origin: Any, visits: Any, operands: Sequence[Array], tables: Sequence[Array]
    ) -> list[Array]:
        plan = _in_blocks(plan)
        wide, (rows, columns) = _wide(operands[0]), plan.tile

        def of_head(corner: Any, operands: Sequence[Array], visits: Any, tables: Sequence[Array]) -> Any:
            q, k, v = operands

            def of_row(i: Array) -> Any:
                q_tile = _part(q, i, rows)

                def step(state: Any, j: Array) -> Any:
                    tile = _tile(plan, (*corner, i, j), q_tile, _part(k, j, columns), tables)
                    return attend(tile, _part(v, j, columns), state)

                state = (
                    jnp.full((rows, 1), -jnp.inf, wide),
                    jnp.zeros((rows, 1), wide),
                    jnp.zeros((rows, v.shape[-1]), wide),
                )
                state = _visit(visits, i, step, state)
                output, lse = finish(state)
                return output.astype(v.dtype), lse[:, 0], state[0][:, 0]

            return _over(of_row, q.shape[0] // rows)

        return list(_over_heads(of_head, origin, operands, visits, tables))

    def backward_queries(
        self, plan: TilePlan, origin: Any, visits: Any, operands: Sequence[Array], tables: Sequence[Array]
    ) -> list[Array]:
        plan = _in_blocks(plan)
        wide, (rows, columns) = _wide(operands[0]), plan.tile
        own = plan.learned_by("q_idx")
        entries = [tables[number].shape[2] for number in own]

        def of_head(corner: Any, operands: Sequence[Array], visits: Any, tables: Sequence[Array]) -> Any:
            q, k = operands[:2]

            def of_row(i: Array) -> Any:
                def step(state: Any, j: Array) -> Any:
                    dq, *sums = state
                    tile, _, ds, found = _backward_tile(plan, (*corner, i, j), operands, tables)
                    added = _summed(found, tile, own, entries, axis=1)
                    k_tile = _part(k, j, columns)
                    dq += dot(ds.astype(k.dtype), clean(tile, k_tile, 0), (1, 0))
                    return [dq, *(a + b for a, b in zip(sums, added, strict=True))]

                zeros = [jnp.zeros((rows, q.shape[-1]), wide), *(jnp.zeros((n, rows), wide) for n in entries)]
                dq, *sums = _visit(visits, i, step, zeros)
                return [dq.astype(q.dtype), *(x.T for x in sums)]

            return _over(of_row, q.shape[0] // rows)

        dq, *sums = _over_heads(of_head, origin, operands, visits, tables)
        return [dq, *(x.swapaxes(2, 3) for x in sums)]

    def backward_keys(
        self, plan: TilePlan, origin: Any, visits: Any, operands: Sequence[Array], tables: Sequence[Array]
    ) -> list[Array]:
        plan = _in_blocks(plan)
        wide, (rows, columns) = _wide(operands[0]), plan.tile
        own = plan.learned_by("kv_idx")
        entries = [tables[number].shape[2] for number in own]

        def of_head(corner: Any, operands: Sequence[Array], visits: Any, tables: Sequence[Array]) -> Any:
            q, k, v, do = operands[:4]

            def of_column(j: Array) -> Any:
                def step(state: Any, i: Array) -> Any:
                    dk, dv, *sums = state
                    tile, weights, ds, found = _backward_tile(plan, (*corner, i, j), operands, tables)
                    added = _summed(found, tile, own, entries, axis=0)
                    q_tile, do_tile = _part(q, i, rows), _part(do, i, rows)
                    dk += dot(ds.astype(q.dtype), clean(tile, q_tile, 1), (0, 0))
                    dv += dot(weights.astype(do.dtype), do_tile, (0, 0))
                    return [dk, dv, *(a + b for a, b in zip(sums, added, strict=True))]

                zeros = [
                    *(jnp.zeros((columns, x.shape[-1]), wide) for x in (k, v)),
                    *(jnp.zeros((n, columns), wide) for n in entries),
                ]
                dk, dv, *sums = _visit(visits, j, step, zeros)
                return [dk, dv, *(x.T for x in sums)]

            return _over(of_column, k.shape[0] // columns)

        dk, dv, *sums = _over_heads(of_head, origin, operands, visits, tables)
        k, v = operands[1:3]
        # Each head of queries has found its own; those that share a head of keys add up.
        dk, dv = (
            x.reshape(x.shape[0], like.shape[1], -1, *x.shape[2:]).sum(2).astype(like.dtype)
            for x, like in ((dk, k), (dv, v))
        )
        return [dk, dv, *(x.swapaxes(2, 3) for x in sums)]

    def backward_pairs(
        self,
        plan: TilePlan,
        origin: Any,
        kinds: Any,
        operands: Sequence[Array],
        tables: Sequence[Array],
        number: int,
    ) -> list[Array]:
        plan = _in_blocks(plan)
        (batch, heads), shape = operands[0].shape[:2], tables[number].shape

        def of_head(corner: Any, operands: Sequence[Array], kinds: Any, tables: Sequence[Array]) -> Any:
            def of_row(i: Array) -> Array:
                def of_column(j: Array) -> Array:
                    found = _backward_tile(plan, (*corner, i, j), operands, tables)[3][number]
                    return jnp.where(kinds[i, j] > 0, found, 0)

                return lax.map(of_column, jnp.arange(kinds.shape[1])).swapaxes(0, 1).reshape(plan.tile[0], -1)

            return [_joined(lax.map(of_row, jnp.arange(kinds.shape[0])))]

        # One head after the other adds to what they share: the sums are as large as the table, and no more.
        shared = (shape[0] == 1 and batch > 1, shape[1] == 1 and heads > 1)
        (found,) = _over_heads(of_head, origin, operands, kinds, tables)
        axes = tuple(axis for axis, yes in enumerate(shared) if yes)
        return [found.sum(axes, keepdims=True).reshape(shape).astype(tables[number].dtype)]


PLAIN = _Plain()


def _in_blocks(plan: TilePlan) -> TilePlan:
    return dataclasses.replace(plan, tile=plan.block)


def _wide(x: Array) -> Any:
    return jnp.promote_types(x.dtype, jnp.float32)


def _part(x: Array, i: Array, size: int) -> Array:
    """Tile `i` of the first axis."""
    return lax.dynamic_slice_in_dim(x, i * size, size, axis=0)


def _visit(visits: Any, i: Array, step: Callable[[Any, Array], Any], state: Any) -> Any:
    """`state = step(state, other)` for the tiles that are listed for tile `i`."""
    order, _, total = visits

    def body(state: Any, turn: tuple[Array, Array]) -> tuple[Any, None]:
        number, other = turn
        following = step(state, other)
        seen = number < total[i]
        return jax.tree.map(lambda new, old: jnp.where(seen, new, old), following, state), None

    return lax.scan(body, state, (jnp.arange(order.shape[1]), order[i]))[0]


def _tile(plan: TilePlan, at: Any, q: Array, k: Array, tables: Sequence[Array]) -> ScoreTile:
    b, h, i, j = at
    return score_tile(plan, (b, h, i * plan.tile[0], j * plan.tile[1]), q, k, _reader(plan, at, tables), True)


def _backward_tile(
    plan: TilePlan, at: Any, operands: Sequence[Array], tables: Sequence[Array]
) -> tuple[ScoreTile, Array, Array, dict[int, Array]]:
    """The tile, its weights, the gradient of `q kᵀ`, and those of the tables by number."""
    i, j = at[2:]
    q, k, v, do, lse, delta = (
        _part(x, place, size)
        for x, place, size in zip(
            operands, (i, j, j, i, i, i), [plan.tile[n] for n in (0, 1, 1, 0, 0, 0)], strict=True
        )
    )
    tile = _tile(plan, at, q, k, tables)
    weights, ds, found = gradients(plan, tile, v, do, lse[:, None], delta[:, None])
    return tile, weights, ds, dict(zip(plan.learned(), found, strict=True))


def _summed(
    found: dict[int, Array], tile: ScoreTile, numbers: Iterable[int], entries: Iterable[int], axis: int
) -> list[Array]:
    return [
        sum_entries(found[number], tile.indices[number], length, axis=axis)
        for number, length in zip(numbers, entries, strict=True)
    ]


def _reader(plan: TilePlan, at: Any, tables: Sequence[Array]) -> Read:
    def read(number: int, index: Array | None) -> Array:
        table = tables[number]
        for axis in (1, 2):
            size = plan.tile[axis - 1]
            if table.shape[axis] > 1:
                table = lax.dynamic_slice_in_dim(table, at[axis + 1] * size, size, axis=axis)
        return pick(lambda r: table[r], index, table.shape[0], plan.tile)

    return read


def _over(f: Callable[[Array], Any], count: int) -> Any:
    """The results for all tiles, joined along their first axis."""
    return jax.tree.map(_joined, lax.map(f, jnp.arange(count)))


def _joined(x: Array) -> Array:
    return x.reshape(-1, *x.shape[2:])


def _over_heads(f: Callable[..., Any], origin: Any, operands: Sequence[Array], *rest: Any) -> Any:
    """`f((b, n), operands, *rest)` for every batch entry and head at once.

    An array with one entry or head is the same for all; one with the heads of keys is shared by groups.
    """
    (batch, heads), kv_heads = operands[0].shape[:2], operands[1].shape[1]
    places = [
        (jnp.asarray(origin)[0] + jnp.arange(batch, dtype=jnp.int32)).reshape(batch, 1),
        (jnp.asarray(origin)[1] + jnp.arange(heads, dtype=jnp.int32)).reshape(1, heads),
    ]
    leaves, tree = jax.tree.flatten((places, operands, *rest))

    def call(*flat: Array) -> Any:
        (b, h), operands, *rest = jax.tree.unflatten(tree, flat)
        return f((b, h), operands, *rest)

    axes: list[list[int | None]] = [[], [], []]  # of groups, of heads of keys, of batch entries
    shaped = []
    for x in leaves:
        grouped = x.shape[1] == heads > kv_heads
        axes[0].append(0 if grouped else None)
        axes[1].append(0 if x.shape[1] > 1 and kv_heads > 1 else None)
        axes[2].append(0 if x.shape[0] > 1 else None)
        own = (heads // kv_heads,) if grouped else ()
        own = (kv_heads, *own) if axes[1][-1] == 0 else own
        own = (batch, *own) if axes[2][-1] == 0 else own
        shaped.append(x.reshape(*own, *x.shape[2:]))
    for mapped in axes:
        if any(axis == 0 for axis in mapped):
            call = jax.vmap(call, in_axes=tuple(mapped))
    results = call(*shaped)
    return jax.tree.map(
        lambda x: x.reshape(batch, heads, *x.shape[sum(0 in mapped for mapped in axes) :]), results
    )
