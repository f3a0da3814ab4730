"""Which tiles of the score matrix a kernel visits, for each row of tiles and for each column.

A mask is a pattern that is known while tracing (a causal band, a window, the lists of a block mask) and conditions
that come with the data (lengths, segments). A kernel's grid is static: it has as many steps as the widest row
of the pattern has tiles, and the data can only close tiles of these. Small blocks are joined to large tiles.
"""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Int

from jax_attn.functional.block_mask import BlockMask, MaskMod, and_masks, noop_mask
from jax_attn.functional.blockwise.plan import EMPTY, FULL, PARTIAL, grid_of_band, grid_of_block_mask
from jax_attn.functional.mask_mods import causal, document, padding

Kinds = np.ndarray | Array  # (B or 1, N or 1, rows, columns): 0 empty, 1 partial, 2 full


class MaskTerms(NamedTuple):
    """The masks of `dot_product_attention`; the fields are its arguments, with a window of two numbers."""

    is_causal: bool = False
    local_window_size: tuple[int, int] | None = None
    query_seq_lengths: Array | None = None
    key_value_seq_lengths: Array | None = None
    segment_ids: tuple[Array, Array] | None = None
    mask: Array | None = None

    @property
    def band(self) -> tuple[int | None, int | None]:
        """How many positions before and after its own a query sees; None is no limit."""
        before, after = self.local_window_size or (None, None)
        return before, 0 if self.is_causal else after

    @property
    def data(self) -> tuple[Any, ...]:
        """The arrays."""
        return self.query_seq_lengths, self.key_value_seq_lengths, self.segment_ids, self.mask

    def without_data(self) -> "MaskTerms":
        """The part that is known while tracing."""
        return MaskTerms(self.is_causal, self.local_window_size)

    def mask_mod(self) -> MaskMod | None:
        """The mask of all of them, or None where everything is allowed."""
        mods: list[MaskMod] = [causal] if self.is_causal else []
        if self.local_window_size is not None:
            before, after = self.local_window_size
            mods.append(lambda b, h, q_idx, kv_idx: (kv_idx >= q_idx - before) & (kv_idx <= q_idx + after))
        lengths, array = self.query_seq_lengths, self.mask
        if lengths is not None:
            mods.append(lambda b, h, q_idx, kv_idx: q_idx < lengths[b])
        if self.key_value_seq_lengths is not None:
            mods.append(padding(self.key_value_seq_lengths))
        if self.segment_ids is not None:
            mods.append(document(*self.segment_ids))
        if array is not None:

            def entry(*place: Array) -> Array:
                return array[tuple(0 if n == 1 else at for at, n in zip(place, array.shape, strict=True))]

            mods.append(entry)
        return and_masks(*mods) if mods else None


Mask = BlockMask | MaskTerms | None


class Visits(NamedTuple):
    """For each tile of one side those of the other that are looked at, the partial ones first.

    Attributes:
        order: `(B, N, tiles, steps)` int32, B and N possibly 1.
        partial: `(B, N, tiles)` int32, how many of them need the mask.
        total: `(B, N, tiles)` int32, how many there are.
    """

    order: Int[Array | np.ndarray, "B N tiles steps"]
    partial: Int[Array | np.ndarray, "B N tiles"]
    total: Int[Array | np.ndarray, "B N tiles"]


class TilePattern(NamedTuple):
    """A mask as kernels want it.

    Attributes:
        kinds: `(B, N, rows, columns)` int8, of tiles: 0 empty, 1 partial, 2 full; B and N possibly 1.
        steps: the most tiles that a row has, and a column.
        mask_mod: what partial tiles ask, or None.
        tile: queries and keys in a tile.
    """

    kinds: Kinds
    steps: tuple[int, int]
    mask_mod: MaskMod | None
    tile: tuple[int, int]

    def of_rows(self) -> Visits:
        """Tiles of keys for each tile of queries."""
        return _visits(self.kinds, self.steps[0])

    def of_columns(self) -> Visits:
        """Tiles of queries for each tile of keys."""
        return _visits(self.kinds.swapaxes(2, 3), self.steps[1])


def make_pattern(mask: Mask, lengths: tuple[int, int], tile: tuple[int, int]) -> TilePattern:
    """The pattern of a mask for so many queries and keys, in tiles of this size.

    The tile must be a multiple of the blocks of a block mask, see `joined_size`.
    """
    if isinstance(mask, BlockMask):
        factors = tuple(new // old for new, old in zip(tile, mask.BLOCK_SIZE, strict=True))
        kinds = _join(grid_of_block_mask(mask), factors)
        mask_mod = None if mask.mask_mod is noop_mask else mask.mask_mod
        steps = _widest(kinds)
        if not isinstance(kinds, np.ndarray):
            # Lists that are cut to their widest row bound what is in it, whatever they say.
            listed = sum(x.shape[-1] for x in (mask.kv_indices, mask.full_kv_indices) if x is not None)
            steps = (min(steps[0], listed * factors[0]), steps[1])
        return TilePattern(kinds, steps, mask_mod, tile)
    terms = mask or MaskTerms()
    band = grid_of_band(*lengths, tile, *terms.band)
    kinds: Kinds = band
    for other in _kinds_of_data(terms, lengths, tile):
        kinds = jnp.minimum(kinds, other)
    return TilePattern(kinds, _widest(band), terms.mask_mod(), tile)


def joined_size(block: int, tile: int) -> int:
    """The multiple of `block` and of 128 that comes nearest to `tile` from below, or the smallest one."""
    unit = math.lcm(block, 128)
    return max(tile // unit, 1) * unit


def bytes_of_lists(mask: Mask, lengths: tuple[int, int], tile: tuple[int, int]) -> int:
    """Bytes of the longer lists of a mask, of rows or of columns, for one batch entry."""
    if isinstance(mask, BlockMask) and isinstance(mask.kv_indices, Tracer):
        heads, steps = (
            mask.kv_indices.shape[1],
            [-(-n // size) for n, size in zip(lengths, tile, strict=True)][::-1],
        )
    else:
        known = mask if isinstance(mask, BlockMask) else (mask or MaskTerms()).without_data()
        pattern = make_pattern(known, lengths, tile)
        heads, steps = pattern.kinds.shape[1], pattern.steps
        if isinstance(mask, MaskTerms) and mask.mask is not None:
            heads = mask.mask.shape[1]
    tiles = (-(-n // size) for n, size in zip(lengths, tile, strict=True))
    return 4 * heads * max(n * (width + 2) for n, width in zip(tiles, steps, strict=True))


def _kinds_of_data(terms: MaskTerms, lengths: tuple[int, int], tile: tuple[int, int]) -> list[Array]:
    """Of each array of the mask the kinds of tiles; a tile may count as partial that is empty."""
    rows, columns = (jnp.arange(0, n, size) for n, size in zip(lengths, tile, strict=True))
    found = []
    if terms.query_seq_lengths is not None:
        kinds = _before(rows, tile[0], lengths[0], terms.query_seq_lengths)
        found.append(kinds[:, None, :, None])
    if terms.key_value_seq_lengths is not None:
        kinds = _before(columns, tile[1], lengths[1], terms.key_value_seq_lengths)
        found.append(kinds[:, None, None, :])
    if terms.segment_ids is not None:
        (q_low, q_high), (k_low, k_high) = (
            _ranges(ids, size) for ids, size in zip(terms.segment_ids, tile, strict=True)
        )
        meet = (q_low[:, :, None] <= k_high[:, None]) & (k_low[:, None] <= q_high[:, :, None])
        same = (q_low[:, :, None] == k_high[:, None]) & (k_low[:, None] == q_high[:, :, None])
        found.append(jnp.where(same, FULL, jnp.where(meet, PARTIAL, EMPTY))[:, None])
    if terms.mask is not None:
        found.append(_kinds_of_array(terms.mask, lengths, tile))
    return [kinds.astype(jnp.int8) for kinds in found]


def _before(starts: Array, size: int, length: int, ends: Array) -> Array:
    """For each batch entry the kinds of the tiles of one side, of which what lies before an end is allowed."""
    stops = jnp.minimum(starts + size, length)
    all_, any_ = stops <= ends[:, None], starts < ends[:, None]
    return jnp.where(all_, FULL, jnp.where(any_, PARTIAL, EMPTY))


def _ranges(ids: Array, size: int) -> tuple[Array, Array]:
    """The smallest and the largest id of each tile, `(B, tiles)`."""
    short = -ids.shape[1] % size
    tiles = jnp.pad(ids, ((0, 0), (0, short)), mode="edge").reshape(ids.shape[0], -1, size)
    return tiles.min(-1), tiles.max(-1)


def _kinds_of_array(mask: Array, lengths: tuple[int, int], tile: tuple[int, int]) -> Array:
    """The kinds of tiles of an array that broadcasts against `(B, N, T, S)`, read once."""
    counts = mask.astype(jnp.int8)
    low = high = counts
    for axis, length, size in zip((2, 3), lengths, tile, strict=True):
        if counts.shape[axis] == 1:
            continue
        widths = [(0, -length % size if other == axis else 0) for other in range(4)]
        split = (*low.shape[:axis], -1, size, *low.shape[axis + 1 :])
        low = jnp.pad(low, widths, mode="edge").reshape(split).min(axis + 1)
        split = (*high.shape[:axis], -1, size, *high.shape[axis + 1 :])
        high = jnp.pad(high, widths, mode="edge").reshape(split).max(axis + 1)
    return jnp.where(low > 0, FULL, jnp.where(high > 0, PARTIAL, EMPTY))


def _join(kinds: Kinds, factors: tuple[int, ...]) -> Kinds:
    """Blocks joined to tiles: full where all are, empty where all are, partial otherwise."""
    xp = np if isinstance(kinds, np.ndarray) else jnp
    low = high = kinds
    for axis, factor in zip((2, 3), factors, strict=True):
        widths = [(0, -kinds.shape[axis] % factor if other == axis else 0) for other in range(4)]
        split = (*low.shape[:axis], -1, factor, *low.shape[axis + 1 :])
        # What is added behind the end must neither open nor close the last tile.
        low = xp.pad(low, widths, constant_values=FULL).reshape(split).min(axis + 1)
        high = xp.pad(high, widths, constant_values=EMPTY).reshape(split).max(axis + 1)
    return xp.where(low == FULL, FULL, xp.where(high == EMPTY, EMPTY, PARTIAL)).astype(xp.int8)


def _widest(kinds: Kinds) -> tuple[int, int]:
    """The most tiles that any row has, and any column; all of them where that is not known yet."""
    if not isinstance(kinds, np.ndarray):
        return kinds.shape[3], kinds.shape[2]
    by_row, by_column = (max(1, int((kinds > EMPTY).sum(axis).max(initial=0))) for axis in (3, 2))
    return by_row, by_column


def _visits(kinds: Kinds, steps: int) -> Visits:
    xp = np if isinstance(kinds, np.ndarray) else jnp
    order = xp.argsort((kinds + 2) % 3, axis=-1, stable=True)[..., :steps].astype(xp.int32)  # 1, 2, then 0
    return Visits(order, (kinds == PARTIAL).sum(-1, dtype=xp.int32), (kinds > EMPTY).sum(-1, dtype=xp.int32))
