"""The grid of a TPU kernel: which tiles a step works on, and how they are fetched.

The grid is sequential: its last axis steps through the tiles that a tile of queries (or of keys) looks at,
while sums wait in VMEM. Which tile comes next stands in lists that lie in SMEM before the kernel starts, so empty
tiles cost neither arithmetic nor traffic.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jaxtyping import Array

from jax_attn.functional.kernels.partitioning import like
from jax_attn.functional.kernels.tile import TilePlan
from jax_attn.functional.kernels.visits import Visits

SMEM_BYTES = 2**19  # for lists: half of what a v5e has
VMEM_BYTES = 64 * 2**20  # of 128 MiB on v5e and v6e, 95 on v5p; the compiler's own limit is 16


class Grid:
    """Where the tiles of a step lie, on a grid `(b, n, row, step)` or `(b, kv head, column, g, step)`.

    Index maps are written in terms of `(b, n, row, column)`; the lists of visits say the one that the grid
    leaves open.
    """

    def __init__(self, plan: TilePlan, visits: Visits, group: int, by_column: bool = False) -> None:
        self.plan, self.group, self.by_column = plan, group, by_column
        self.sizes = visits.order.shape

    def entry(self, flat: Any, b: Any, n: Any, i: Any, j: Any = 0, steps: int | None = None) -> Any:
        """An element of a list `(B or 1, N or 1, tiles, steps)` that lies flat in SMEM."""
        some_b, some_n, tiles, default = self.sizes
        at = (b if some_b > 1 else 0) * some_n + (n if some_n > 1 else 0)
        steps = default if steps is None else steps
        return flat[(at * tiles + i) * steps + j]

    def other(self, visits: Sequence[Any], b: Any, n: Any, i: Any, j: Any) -> Any:
        """The tile that step `j` looks at; after the last one still the last one, so nothing is fetched."""
        order, _, total = visits[:3]
        last = jnp.maximum(self.entry(total, b, n, i, steps=1) - 1, 0)
        return self.entry(order, b, n, i, jnp.minimum(j, last))

    def visit(
        self, visits: Sequence[Any], b: Any, n: Any, i: Any, j: Any, step: Callable[[bool], None]
    ) -> None:
        """`step(masked)` on a partial tile, without the mask on a full one, not at all on an empty one."""
        partial, total = (self.entry(x, b, n, i, steps=1) for x in visits[1:3])
        pl.when(j < partial)(functools.partial(step, True))
        pl.when((j >= partial) & (j < total))(functools.partial(step, False))

    def place(self, *at: Any) -> tuple[Any, Any, Any, Any]:
        """`(b, n, row, column)` from a place on the grid, the origin and the lists."""
        if self.by_column:
            b, kv_head, column, g, step, _, *visits = at
            n = kv_head * self.group + g
            return b, n, self.other(visits, b, n, column, step), column
        b, n, row, step, _, *visits = at
        return b, n, row, self.other(visits, b, n, row, step)

    def spec(self, block: tuple[int, ...], index: Callable[..., tuple[Any, ...]]) -> pl.BlockSpec:
        """Tiles of an array that has leading axes of batch and heads."""
        return pl.BlockSpec((None, None, *block), lambda *at: index(*self.place(*at)))

    def rows_of(self, x: Array) -> pl.BlockSpec:
        """Tiles of queries, `(tile, H)`."""
        return self.spec((self.plan.tile[0], x.shape[-1]), lambda b, n, i, j: (b, n, i, 0))

    def columns_of(self, x: Array) -> pl.BlockSpec:
        """Tiles of keys or values, `(tile, H)`."""
        return self.spec((self.plan.tile[1], x.shape[-1]), lambda b, n, i, j: (b, n // self.group, j, 0))

    def row(self) -> pl.BlockSpec:
        """Tiles of one number for each query, `(1, tile)`."""
        return self.spec((1, self.plan.tile[0]), lambda b, n, i, j: (b, n, 0, i))

    def of_operands(self, q: Array, k: Array, v: Array, do: Array) -> list[pl.BlockSpec]:
        """Tiles of the operands of a backward kernel: q, k, v, do, lse and delta."""
        return [
            self.rows_of(q),
            self.columns_of(k),
            self.columns_of(v),
            self.rows_of(do),
            self.row(),
            self.row(),
        ]

    def of_tables(self, tables: Sequence[Array]) -> list[pl.BlockSpec]:
        """Tiles of tables, `(R, q_tile or 1, kv_tile or 1)`."""
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
        shapes: Sequence[tuple[tuple[int, ...], Any]],
        scratch: Any,
        lists: Sequence[Any],
        operands: Sequence[Any],
    ) -> list[Array]:
        """The results of the kernel; only the first three axes of the grid are independent.

        Args:
            shapes: shape and dtype of each result.
            lists: the origin, and three lists of visits.
        """
        semantics = ("parallel",) * 3 + ("arbitrary",) * (len(grid) - 3)
        run = pl.pallas_call(
            kernel,
            grid_spec=pltpu.PrefetchScalarGridSpec(
                num_scalar_prefetch=len(lists),
                grid=grid,
                in_specs=in_specs,
                out_specs=out_specs,
                scratch_shapes=scratch,
            ),
            out_shape=[like(*shape, operands[0]) for shape in shapes],
            compiler_params=pltpu.CompilerParams(dimension_semantics=semantics, vmem_limit_bytes=VMEM_BYTES),
            interpret=self.plan.interpret,
        )
        return list(run(*(jnp.reshape(x, -1) for x in lists), *operands))


class PairGrid(Grid):
    """A grid over all tiles of a table of pairs, and over the batch entries and heads that share it.

    The lists are but one, of the kinds of tiles.
    """

    def __init__(self, plan: TilePlan, kinds: Any, group: int, shared: tuple[int, int]) -> None:
        self.plan, self.group, self.shared, self.sizes = plan, group, shared, kinds.shape

    def place(self, *at: Any) -> tuple[Any, Any, Any, Any]:
        """`(b, n, row, column)` from a place on the grid."""
        b, n, i, j, shared_b, shared_n, *_ = at
        return b * self.shared[0] + shared_b, n * self.shared[1] + shared_n, i, j
