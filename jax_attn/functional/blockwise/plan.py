"""Which tiles of the score matrix to compute, of which size, in which order.

A *grid* has an entry for each block of queries and keys: 0 empty, 1 partial, 2 full. It comes from a block
mask or from a band of positions, and is known while tracing (NumPy) or only when running (traced). The plan
is the grid in blocks of the size to compute in, as lists of key blocks for each block of queries; it is made
when the platform is known.
"""

import dataclasses
import os
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array

from jax_attn.functional.block_mask import BlockMask

EMPTY, PARTIAL, FULL = 0, 1, 2
LONGEST = 4096  # keys in a block, one block after another
MOST_ROWS = 2048  # queries in such a block, times the heads that share their keys
MOST_SCORES = 2**19  # in a block: they should stay in a cache
# Queries: XLA's CPU divides a product by queries among the cores, which wait for the last piece.
HALF_A_PIECE = 96
STEP = 2**13  # scores that one core computes in the time that it takes to begin a step
PARTS = 4  # of a block of queries, which it leaves out where they see nothing of a block of keys
# Rows and keys in a block of a pattern that is known only when running: larger ones may waste more than they gain.
UNKNOWN = (512, 256)
SIDE_BY_SIDE = (128, 256)  # keys or queries in a block, where all rows of blocks are computed at once
ALIGNED = 8  # numbers that a core's registers hold: blocks of other sizes leave some of them empty
Band = tuple[int | None, int | None]  # None is no limit
Leaf = Any  # an array, or what a transformation of trees puts in its place
Grid = np.ndarray | Array  # (B or 1, H or 1, rows, columns)


class KnownGrid:
    """A grid that is known while tracing, and equals another of the same entries."""

    def __init__(self, entries: np.ndarray):
        self.entries = entries
        self._key = (entries.shape, entries.tobytes())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KnownGrid) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pattern:
    """Which blocks of scores to look at, before it is known in which sizes they are computed.

    Attributes:
        traced: the grid, where it is known only when running.
        known: the grid, where it is known while tracing.
        block: the size of its blocks of queries and keys.
        band: how many positions before and after its own a query sees, where the grid says no more than that:
            then it can be made anew in blocks of any size.
    """

    traced: Leaf
    known: KnownGrid | None = dataclasses.field(metadata={"static": True})
    block: tuple[int, int] = dataclasses.field(metadata={"static": True})
    band: Band | None = dataclasses.field(default=None, metadata={"static": True})

    @property
    def grid(self) -> Grid:
        """The grid, in NumPy where it is known."""
        return self.traced if self.known is None else self.known.entries


def make_pattern(grid: Grid, block: tuple[int, int]) -> Pattern:
    """The pattern of a grid."""
    known = KnownGrid(grid) if isinstance(grid, np.ndarray) else None
    return Pattern(None if known else grid, known, block)


def pattern_of_band(lengths: tuple[int, int], block: tuple[int, int], band: Band = (None, None)) -> Pattern:
    """The pattern of a band of positions, by default of all of them."""
    grid = grid_of_band(*lengths, block, *band)
    return dataclasses.replace(make_pattern(grid, block), band=band)


def pattern_of_block_mask(block_mask: BlockMask) -> Pattern:
    """The pattern of a block mask."""
    return make_pattern(grid_of_block_mask(block_mask), block_mask.BLOCK_SIZE)


class Lists(NamedTuple):
    """For each block of one side, those of the other that it has to look at.

    Attributes:
        num: `(B or 1, groups or 1, rows)`, how many.
        idx: `(B or 1, groups or 1, rows, most)`, which.
        most: the most that any row has; what is 0 need not be compiled.
    """

    num: Leaf
    idx: Leaf
    most: int

    @property
    def shared(self) -> bool:
        """Whether they are the same for all batch entries and heads."""
        return self.num.shape[:2] == (1, 1)

    @property
    def even(self) -> bool:
        """Whether every row is known to have as many as any other."""
        return isinstance(self.num, np.ndarray) and bool((self.num == self.most).all())


class Plan(NamedTuple):
    """The blocks to compute in.

    Attributes:
        full, partial: the blocks of keys for each block of queries.
        q_size, kv_size: the size of a block.
        grid: the kinds of blocks, `(B or 1, groups or 1, rows, columns)`.
    """

    full: Lists
    partial: Lists
    q_size: int
    kv_size: int
    grid: Grid

    @property
    def lists(self) -> tuple[tuple[Lists, bool], ...]:
        """The blocks of keys for each block of queries, and whether they are partial."""
        return tuple((x, partial) for x, partial in ((self.full, False), (self.partial, True)) if x.most)

    @property
    def by_keys(self) -> tuple[tuple[Lists, bool], ...]:
        """The blocks of queries for each block of keys, and whether they are partial."""
        turned = self.grid.swapaxes(2, 3)
        return tuple((x, k == PARTIAL) for k in (FULL, PARTIAL) if (x := lists_of(turned == k)).most)


def grid_of_block_mask(block_mask: BlockMask) -> Grid:
    """The grid of a block mask, in the blocks of the mask; NumPy where its arrays are not traced."""
    num, idx = block_mask.kv_num_blocks, block_mask.kv_indices
    full_num, full_idx = block_mask.full_kv_num_blocks, block_mask.full_kv_indices
    known = not any(isinstance(x, Tracer) for x in (num, idx, full_num, full_idx))
    xp, listed = (np, _listed_known) if known else (jnp, _listed)
    grid = listed(num, idx) * xp.int8(PARTIAL)
    return grid if full_num is None else xp.maximum(grid, listed(full_num, full_idx) * xp.int8(FULL))


def _listed(num: Leaf, idx: Leaf) -> Array:
    """True, in each row, where its first `num` of `idx` point to."""
    columns = jnp.arange(idx.shape[-1])
    return ((idx[..., None] == columns) & (columns < num[..., None])[..., None]).any(-2)


def _listed_known(num: Leaf, idx: Leaf) -> np.ndarray:
    """The same in NumPy: JAX cannot compute inside a mesh of chips that are only compiled for."""
    num, idx = np.asarray(num), np.asarray(idx)
    counted = np.arange(idx.shape[-1]) < num[..., None]
    listed = np.zeros(idx.shape, bool)
    *rows, _ = np.nonzero(counted)
    listed[(*rows, idx[counted])] = True
    return listed


def grid_of_band(
    queries: int, keys: int, size: tuple[int, int], before: int | None, after: int | None
) -> Grid:
    """The grid of `q_idx - before <= kv_idx <= q_idx + after`; None is no limit."""
    first_q = np.arange(0, queries, size[0])[:, None]
    first_k = np.arange(0, keys, size[1])[None, :]
    last_q = np.minimum(first_q + size[0], queries) - 1
    last_k = np.minimum(first_k + size[1], keys) - 1
    any_allowed, all_allowed = np.ones((2, first_q.size, first_k.size), bool)
    if before is not None:
        any_allowed = any_allowed & (last_k >= first_q - before)
        all_allowed = all_allowed & (first_k >= last_q - before)
    if after is not None:
        any_allowed = any_allowed & (first_k <= last_q + after)
        all_allowed = all_allowed & (last_k <= first_q + after)
    grid = np.where(all_allowed, FULL, np.where(any_allowed, PARTIAL, EMPTY))
    return grid.astype(np.int8)[None, None]


class Visit(NamedTuple):
    """Blocks of keys that the same number of queries look at.

    Attributes:
        lists: which they are, for each block of queries.
        first: `(B or 1, groups or 1, rows, most)`, for each of them the first query, counted from its block's.
        queries: how many look at it.
        partial: whether block mask and band have to be asked.
    """

    lists: Lists
    first: Leaf
    queries: int
    partial: bool


class SerialPlan(NamedTuple):
    """The blocks to compute in, one after another.

    Attributes:
        visits: what each block of queries looks at.
        q_size, kv_size: the size of a block.
    """

    visits: tuple[Visit, ...]
    q_size: int
    kv_size: int

    @property
    def scores(self) -> int:
        """How many scores are computed, where that is known."""
        return sum(int(x.lists.num.sum()) * x.queries * self.kv_size for x in self.visits)

    def time(self, repeats: int) -> float:
        """An estimate, in scores that one core computes, with so many heads in a block."""
        cores, waiting = os.cpu_count() or 1, HALF_A_PIECE * self.kv_size
        areas = [(int(x.lists.num.sum()), x.queries * self.kv_size * repeats) for x in self.visits]
        return float(sum(count * (STEP + min(area, area / cores + waiting)) for count, area in areas))


def serial_plan(pattern: Pattern, lengths: tuple[int, int], groups: int, repeats: int = 1) -> SerialPlan:
    """The plan in which one block is computed after another: that of the least estimated time.

    Large blocks keep more cores at work, small ones leave out more of what nobody sees. Where the grid can be
    made anew, the blocks are of nearly equal sizes: what the last one is filled up with is computed like the rest.

    Args:
        pattern: the blocks to look at.
        lengths: the number of queries and of keys.
        groups: in how many groups the heads are computed.
        repeats: how many query heads share the keys of a group.
    """
    if pattern.known is None:
        plan = make_plan(pattern, _size_of_unknown(pattern, lengths, repeats), lengths, groups)
        visits = (Visit(x, jnp.zeros_like(x.idx), plan.q_size, partial) for x, partial in plan.lists)
        return SerialPlan(tuple(visits), plan.q_size, plan.kv_size)
    plans = [_plan_in_parts(pattern, size, lengths, groups) for size in _sizes(pattern, lengths, repeats)]
    return min(plans, key=lambda plan: plan.time(repeats))


def _sizes(pattern: Pattern, lengths: tuple[int, int], repeats: int) -> list[tuple[int, int]]:
    """Sizes to choose from, the tallest first."""
    sizes: dict[tuple[int, int], bool] = {}
    for rows in (MOST_ROWS // n for n in (1, 2, 4, 8, 16)):
        for keys in (LONGEST // n for n in (1, 2, 4, 8, 16, 32)):
            queries = max(1, rows // repeats)
            if pattern.band is None:
                size = _size(pattern.block[0], lengths[0], queries), _size(pattern.block[1], lengths[1], keys)
            else:
                size = _equal_parts(lengths[0], queries), _equal_parts(lengths[1], keys)
            sizes[size] = size[0] * size[1] * repeats <= MOST_SCORES
    return [size for size, fits in sizes.items() if fits] or [min(sizes)]


def _plan_in_parts(
    pattern: Pattern, size: tuple[int, int], lengths: tuple[int, int], groups: int
) -> SerialPlan:
    """The plan in blocks of a size, where of each block of queries only the parts take part that see something."""
    block = 1 if pattern.band is not None else pattern.block[0]
    parts = next(n for n in (PARTS, 2, 1) if size[0] % (n * block) == 0 or n == 1)
    part = (size[0] // parts, size[1])
    if pattern.band is not None:
        pattern = pattern_of_band(lengths, part, pattern.band)
    grid: Any = make_plan(pattern, part, lengths, groups).grid
    short = -grid.shape[2] % parts
    grid = np.pad(grid, [(0, 0), (0, 0), (0, short), (0, 0)], constant_values=EMPTY)
    grid = grid.reshape(*grid.shape[:2], -1, parts, grid.shape[3])
    seen = grid != EMPTY
    first, last = seen.argmax(3), parts - 1 - seen[:, :, :, ::-1].argmax(3)
    count = np.where(seen.any(3), last - first + 1, 0)
    full = (grid == FULL).sum(3) == count
    visits = []
    for number in range(parts, 0, -1):
        for partial in (False, True):
            lists = lists_of((count == number) & (full != partial))
            if lists.most:
                starts = np.take_along_axis(first, lists.idx, -1).astype(np.int32) * part[0]
                visits.append(Visit(lists, starts, number * part[0], partial))
    return SerialPlan(tuple(visits), *size)


def _size_of_unknown(pattern: Pattern, lengths: tuple[int, int], repeats: int) -> tuple[int, int]:
    """Blocks of about `UNKNOWN`; few queries take no more rows than they need, and more keys at once."""
    (rows, keys), block = UNKNOWN, pattern.block
    q_size = _size(block[0], lengths[0], max(1, rows // repeats), fill=False)
    kv_size = _size(block[1], lengths[1], keys)
    while q_size % 2 == 0 and q_size // 2 >= lengths[0] and block[0] % (q_size // 2) == 0:
        q_size //= 2
    if q_size < block[0] and kv_size % block[1] == 0:
        most = min(LONGEST, block[0] * keys // q_size, lengths[1] + kv_size - 1)
        kv_size *= max(1, most // kv_size)
    return q_size, kv_size


def parallel_plan(pattern: Pattern, lengths: tuple[int, int], groups: int, devices: int = 1) -> Plan:
    """The plan in which all rows of blocks are computed side by side: in blocks of `SIDE_BY_SIDE` or the mask's.

    The queries may be sharded over the devices: their blocks become smaller where that lets no block lie on two. A
    grid that can be made anew is made in equal parts of what one device has.
    """
    size = [_size(*x) for x in zip(pattern.block, lengths, SIDE_BY_SIDE, strict=True)]
    aligned = [n for n in (size[0], size[0] // 2, size[0] // 4) if n and lengths[0] % (n * devices) == 0]
    fits = [n for n in aligned if size[0] % n == 0 and pattern.block[0] % n == 0]
    if not fits and devices > 1 and pattern.band is not None:
        share = -(-lengths[0] // devices)
        parts = _equal_parts(share, size[0]), -(-share // -(-share // size[0]))
        fits = [n for n in parts if n >= size[0] // 4 and -(-lengths[0] // n) % devices == 0]
        if fits:
            pattern = pattern_of_band(lengths, (fits[0], size[1]), pattern.band)
    return make_plan(pattern, (fits[0] if fits else size[0], size[1]), lengths, groups)


def _equal_parts(length: int, most: int) -> int:
    """The size of the fewest parts of at most `most`."""
    size = -(-length // -(-length // most))
    return size if size < ALIGNED else -(-size // ALIGNED) * ALIGNED


def _size(block: int, length: int, largest: int, fill: bool = True) -> int:
    """The largest size to compute in that the blocks of a mask go into, or that goes into them.

    Args:
        block: the size of the mask's blocks.
        length: how much there is to compute.
        largest: the largest size.
        fill: whether the last one may be filled up with more than the mask's own blocks fill it up.
    """
    if block > largest and block % largest == 0:
        return largest
    enough = -(-length // block)
    fits = [n for n in (1, 2, 3, 4, 6, 8, 12, 16, 32) if block * n <= largest and n <= enough]
    return block * max([n for n in fits if fill or enough % n == 0], default=1)


def make_plan(pattern: Pattern, size: tuple[int, int], lengths: tuple[int, int], groups: int) -> Plan:
    """The plan that computes a pattern in blocks of `size`.

    Args:
        pattern: the blocks to look at.
        size: the size to compute in: a multiple or a divisor of the pattern's, on each axis.
        lengths: the number of queries and of keys.
        groups: in how many groups the heads are computed; a block is full when it is so for the whole group.
    """
    grid = pattern.grid
    xp = np if isinstance(grid, np.ndarray) else jnp
    rows, columns = (-(-n // s) for n, s in zip(lengths, size, strict=True))
    if grid.shape[1] > 1:
        grid = _pool(xp, grid, 1, grid.shape[1] // groups)
    for axis, old, new, count in zip((2, 3), pattern.block, size, (rows, columns), strict=True):
        grid = _pool(xp, grid, axis, new // old) if new >= old else xp.repeat(grid, old // new, axis=axis)
        grid = grid[:, :, :count] if axis == 2 else grid[..., :count]
    ragged = (xp.arange(columns) + 1) * size[1] > lengths[1]  # what lies behind the last key must be masked
    grid = xp.where(ragged[None, None, None] & (grid == FULL), PARTIAL, grid)
    return Plan(lists_of(grid == FULL), lists_of(grid == PARTIAL), *size, grid)


def lists_of(chosen: np.ndarray | Array) -> Lists:
    """How many are chosen in each row, and which, no more than the most of any row."""
    if not isinstance(chosen, np.ndarray):
        num = chosen.sum(-1).astype(np.int32)
        return Lists(num, jnp.argsort(~chosen, axis=-1, stable=True).astype(np.int32), chosen.shape[-1])
    num = chosen.sum(-1).astype(np.int32)
    most = int(num.max(initial=0))
    return Lists(num, np.argsort(~chosen, axis=-1, stable=True)[..., :most].astype(np.int32), most)


def _pool(xp: ModuleType, grid: Grid, axis: int, factor: int) -> Grid:
    """Blocks joined by `factor`: full where all are, empty where all are, partial otherwise."""
    if factor == 1:
        return grid
    short = -grid.shape[axis] % factor
    joined = (*grid.shape[:axis], -1, factor, *grid.shape[axis + 1 :])
    widths = [(0, short if other == axis else 0) for other in range(grid.ndim)]
    # What is added behind the end follows its neighbours: it must not make the last block partial.
    low = xp.pad(grid, widths, constant_values=FULL).reshape(joined).min(axis + 1)
    high = xp.pad(grid, widths, constant_values=EMPTY).reshape(joined).max(axis + 1)
    return xp.where(low == FULL, FULL, xp.where(high == EMPTY, EMPTY, PARTIAL)).astype(np.int8)
