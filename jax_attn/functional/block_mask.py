"""Which blocks of the score matrix are empty, full, or need the mask."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Int

from jax_attn.functional.block_index import entries_of, entry_of
from jax_attn.functional.block_kinds import EMPTY, FULL, PARTIAL, Sizes, block_kinds, over_pairs
from jax_attn.functional.block_lists import lists_of, matrix_of, picture
from jax_attn.functional.checks import require_integer, require_pair, require_positive
from jax_attn.functional.mods import check_axes, check_mask_mod
from jax_attn.functional.terms import Mod, hoist

Leaf = Any  # an array, or what a transformation of trees puts in its place
MaskMod = Callable[[Array, Array, Array, Array], Array]
BlockSize = Any  # int | tuple[int, int]; where torch has `device`, so what is given is looked at

DEFAULT_BLOCK_SIZE = 128


def noop_mask(b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
    """The mask that lets every query see every key."""
    return jnp.ones((), bool)


def and_masks(*mask_mods: MaskMod) -> MaskMod:
    """The mask mod that allows what all of `mask_mods` allow."""

    def mask_mod(b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
        result = noop_mask(b, h, q_idx, kv_idx)
        for mod in mask_mods:
            result = result & mod(b, h, q_idx, kv_idx)
        return result

    return mask_mod


def or_masks(*mask_mods: MaskMod) -> MaskMod:
    """The mask mod that allows what any of `mask_mods` allows."""

    def mask_mod(b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
        result = ~noop_mask(b, h, q_idx, kv_idx)
        for mod in mask_mods:
            result = result | mod(b, h, q_idx, kv_idx)
        return result

    return mask_mod


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class BlockMask:
    """A mask seen from afar: for each block of queries, the blocks of keys that it has to look at.

    A block is *full* when every pair in it is allowed (the mask need not be asked), *partial* when some
    are, and left out when none is. Row `i` of `kv_indices` starts with the `kv_num_blocks[i]` partial
    blocks of keys, that of `full_kv_indices` with the full ones; the `q_` arrays say the same by columns.

    It is a pytree: its arrays may be traced, and it may be an argument of a jitted function. A `mask_mod`
    that is a `jax.tree_util.Partial` brings the arrays it binds along.

    Attributes:
        seq_lengths: `(Q_LEN, KV_LEN)`.
        kv_num_blocks: `(B, H, Q_BLOCKS)` int32; B and H are 1 where the mask is the same for all.
        kv_indices: `(B, H, Q_BLOCKS, KV_BLOCKS)` int32.
        full_kv_num_blocks, full_kv_indices: the same for full blocks, or None.
        q_num_blocks, q_indices, full_q_num_blocks, full_q_indices: the transposed lists, or None.
        BLOCK_SIZE: `(Q_BLOCK_SIZE, KV_BLOCK_SIZE)`.
        mask_mod: the mask itself, asked inside partial blocks.

    Source: `torch.nn.attention.flex_attention.BlockMask`.
    """

    seq_lengths: tuple[int, int]
    kv_num_blocks: Leaf
    kv_indices: Leaf
    full_kv_num_blocks: Leaf = None
    full_kv_indices: Leaf = None
    q_num_blocks: Leaf = None
    q_indices: Leaf = None
    full_q_num_blocks: Leaf = None
    full_q_indices: Leaf = None
    BLOCK_SIZE: tuple[int, int] = (DEFAULT_BLOCK_SIZE, DEFAULT_BLOCK_SIZE)
    mask_mod: MaskMod = noop_mask

    @classmethod
    def from_kv_blocks(
        cls,
        kv_num_blocks: Int[Array | np.ndarray, "B H Q_BLOCKS"],
        kv_indices: Int[Array | np.ndarray, "B H Q_BLOCKS KV_BLOCKS"],
        full_kv_num_blocks: Int[Array | np.ndarray, "B H Q_BLOCKS"] | None = None,
        full_kv_indices: Int[Array | np.ndarray, "B H Q_BLOCKS KV_BLOCKS"] | None = None,
        BLOCK_SIZE: int | tuple[int, int] = DEFAULT_BLOCK_SIZE,
        mask_mod: MaskMod | None = None,
        seq_lengths: tuple[int, int] | None = None,
        compute_q_blocks: bool = True,
    ) -> "BlockMask":
        """A block mask from its lists of key blocks; the lists by columns are worked out.

        The lists are part of the mask: what lies outside the blocks they name is not allowed, whatever
        `mask_mod` says, and all of a full block is.

        Raises:
            ValueError: `kv_indices` has fewer than two axes, or only one of the two `full_` arrays is given.
        """
        if jnp.ndim(kv_indices) < 2:
            raise ValueError(f"kv_indices must have at least 2 axes, got shape {jnp.shape(kv_indices)}")
        if (full_kv_num_blocks is None) != (full_kv_indices is None):
            raise ValueError("full_kv_num_blocks and full_kv_indices must both be given, or neither")
        block = require_pair("BLOCK_SIZE", BLOCK_SIZE)
        lists = (kv_num_blocks, kv_indices, full_kv_num_blocks, full_kv_indices)
        full = (
            None
            if full_kv_num_blocks is None or full_kv_indices is None
            else matrix_of(full_kv_num_blocks, full_kv_indices)
        )
        listed = _within(matrix_of(kv_num_blocks, kv_indices), full, mask_mod or noop_mask, block)
        rows, columns = jnp.shape(kv_indices)[-2:]
        lengths = seq_lengths or (rows * block[0], columns * block[1])
        return cls._from_lists(lists, block, listed, lengths, compute_q_blocks)

    @classmethod
    def _from_matrices(
        cls,
        partial: Bool[Array | np.ndarray, "B H Q_BLOCKS KV_BLOCKS"],
        full: Bool[Array | np.ndarray, "B H Q_BLOCKS KV_BLOCKS"] | None,
        block: tuple[int, int],
        mask_mod: MaskMod,
        seq_lengths: tuple[int, int],
    ) -> "BlockMask":
        """From the partial and the full blocks of `mask_mod`."""
        of_rows = (*lists_of(partial), *((None, None) if full is None else lists_of(full)))
        return cls._from_lists(of_rows, block, mask_mod, seq_lengths, True)

    @classmethod
    def _from_lists(
        cls,
        lists: tuple[Leaf, Leaf, Leaf, Leaf],
        block: tuple[int, int],
        mask_mod: MaskMod,
        seq_lengths: tuple[int, int],
        by_column: bool,
    ) -> "BlockMask":
        """From lists by rows that agree with `mask_mod`; those by columns are worked out if asked for."""

        def transposed(num_blocks: Leaf, indices: Leaf) -> tuple[Leaf, Leaf]:
            if num_blocks is None or not by_column:
                return None, None
            return lists_of(matrix_of(num_blocks, indices).swapaxes(-1, -2))

        columns = (*transposed(*lists[:2]), *transposed(*lists[2:]))
        return cls(seq_lengths, *lists, *columns, BLOCK_SIZE=block, mask_mod=mask_mod)

    @property
    def shape(self) -> tuple[int, ...]:
        """`(B, H, Q_LEN, KV_LEN)`."""
        return (*self.kv_indices.shape[:-2], *self.seq_lengths)

    def numel(self) -> int:
        """How many pairs of query and key there are, whether allowed or not."""
        return int(np.prod(self.shape))

    def sparsity(self) -> float:
        """The percentage of the score matrix in blocks that are left out."""
        blocks = int(self.kv_num_blocks.sum())
        if self.full_kv_num_blocks is not None:
            blocks += int(self.full_kv_num_blocks.sum())
        return 100 * (1 - blocks * self.BLOCK_SIZE[0] * self.BLOCK_SIZE[1] / self.numel())

    def to_dense(self) -> Int[Array, "B H Q_BLOCKS KV_BLOCKS"]:
        """1 for each block that is looked at, 0 for each that is left out."""
        dense = matrix_of(self.kv_num_blocks, self.kv_indices)
        if self.full_kv_num_blocks is not None:
            dense = dense | matrix_of(self.full_kv_num_blocks, self.full_kv_indices)
        return jnp.asarray(dense, jnp.int32)

    def to_string(self, grid_size: int | tuple[int, int] = (20, 20), limit: int = 4) -> str:
        """A picture of each batch entry and head: `█` all blocks looked at, `░` some, blank none.

        Args:
            grid_size: the most rows and columns of a picture; -1 draws every block.
            limit: the most pictures.
        """
        dense = np.asarray(self.to_dense())
        return picture(
            dense, dense.shape[-2:] if grid_size == -1 else require_pair("grid_size", grid_size), limit
        )

    def __str__(self) -> str:
        picture = self.to_string().strip()
        return f"BlockMask(shape={self.shape}, sparsity={self.sparsity():.2f}%,\n{picture}\n)"

    def __getitem__(self, index: Any) -> "BlockMask":
        """The block mask of some batch entries, heads and blocks of queries; an integer keeps its axis.

        Unlike torch's, the part still knows its mask: its `mask_mod` counts from the part's own corner.

        Raises:
            ValueError: an index of the blocks of keys, or one that is no integer, slice, list of integers or
                `...`; the last block of queries is short and would not be the last.
            IndexError: an integer out of range.
        """
        sizes, (q_len, kv_len) = self.kv_num_blocks.shape, self.seq_lengths
        batch, head, row = entries_of(index, sizes)
        size, whole, last = self.BLOCK_SIZE[0], self.mask_mod, sizes[2] - 1
        short = sizes[2] * size - q_len
        if short and last in row[:-1]:
            raise ValueError(f"the last block of queries is {size - short} long and must stay the last")

        def mask_mod(b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
            b = entry_of(batch, b) if sizes[0] > 1 else b
            h = entry_of(head, h) if sizes[1] > 1 else h
            return whole(b, h, entry_of(row, q_idx // size) * size + q_idx % size, kv_idx)

        def part(x: Leaf) -> Leaf:
            return None if x is None else x[batch][:, head][:, :, row]

        lists = [
            part(getattr(self, f"{full}kv_{what}"))
            for full in ("", "full_")
            for what in ("num_blocks", "indices")
        ]
        lengths = (len(row) * size - (short if last in row else 0), kv_len)
        return BlockMask._from_lists(
            tuple(lists), self.BLOCK_SIZE, mask_mod, lengths, by_column=self.q_indices is not None
        )

    def check_scores(self, batch: int, heads: int, queries: int, keys: int) -> None:
        """Raise ValueError unless the mask is for scores of this shape, with B and H whole or 1."""
        scores = (batch, heads, queries, keys)
        if (
            len(self.shape) != 4
            or self.shape[2:] != scores[2:]
            or any(n not in (1, m) for n, m in zip(self.shape, scores, strict=True))
        ):
            expected = f"(B, H, Q_LEN, KV_LEN) = {scores}, B and H possibly 1"
            raise ValueError(f"block_mask must be for {expected}; it is for {self.shape}")
        self.check_axes(batch, heads)

    def check_axes(self, batch: int, heads: int) -> None:
        """Raise ValueError where the mask is for one batch entry or head, reads which one, and there are more."""
        made_for = dict(zip("bh", self.kv_num_blocks.shape, strict=False))
        remedies = {
            name: f"its block_mask has {axis}=1 for {count} {what}: make it with {axis}={count}"
            for name, axis, count, what in (
                ("b", "B", batch, "batch entries"),
                ("h", "H", heads, "query heads"),
            )
            if made_for[name] == 1 < count
        }
        if remedies:
            check_axes(check_mask_mod(self.mask_mod), remedies)

    @functools.cached_property
    def _mod(self) -> Callable[..., Array]:
        """The mask mod as a pytree, of the arrays that it captures."""
        if self.mask_mod is noop_mask or isinstance(self.mask_mod, Partial | Mod):
            return self.mask_mod
        return cast(Mod, hoist(self.mask_mod))

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        """The lists and the arrays of the mask mod; and what is static, its program among it."""
        whole = self.mask_mod is noop_mask
        children = [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in LISTS]
        children.append((jax.tree_util.GetAttrKey("mask_mod"), None if whole else self._mod))
        return children, (self.seq_lengths, self.BLOCK_SIZE)

    @classmethod
    def tree_unflatten(cls, static: tuple[Any, ...], children: Any) -> "BlockMask":
        """The inverse of `tree_flatten_with_keys`."""
        *lists, mask_mod = children
        mask_mod = noop_mask if mask_mod is None else mask_mod
        return cls(static[0], *lists, BLOCK_SIZE=static[1], mask_mod=mask_mod)


LISTS = [
    field.name for field in dataclasses.fields(BlockMask) if field.name.endswith(("_blocks", "_indices"))
]


def create_block_mask(
    mask_mod: MaskMod,
    B: int | None,
    H: int | None,
    Q_LEN: int,
    KV_LEN: int,
    BLOCK_SIZE: BlockSize = DEFAULT_BLOCK_SIZE,
    separate_full_blocks: bool = True,
) -> BlockMask:
    """The block mask of `mask_mod`.

    Each pair is asked once, a row of blocks at a time. The lists are known while tracing wherever the arrays that
    `mask_mod` captures are; masks of the same program and sizes are compiled once.

    Args:
        mask_mod: `(b, h, q_idx, kv_idx) -> bool`, on scalars; True = attend.
        B: batch entries, or None where the mask is the same for all.
        H: query heads, or None where the mask is the same for all.
        Q_LEN: number of queries.
        KV_LEN: number of keys.
        BLOCK_SIZE: of queries and keys, or of each.
        separate_full_blocks: whether full blocks are told from partial ones.

    Raises:
        ValueError: a size is no integer from 1 on, `mask_mod` does not make one boolean of four integers, or it
            reads `b` (or `h`) where B (or H) is None.

    Source: `torch.nn.attention.flex_attention.create_block_mask`.
    """
    block = require_pair("BLOCK_SIZE", BLOCK_SIZE)
    program, lengths = _checked(mask_mod, B, H, Q_LEN, KV_LEN)
    kinds = block_kinds(mask_mod, program, Sizes(*lengths, *block))
    full = kinds == FULL if separate_full_blocks else None
    partial = kinds == PARTIAL if separate_full_blocks else kinds != EMPTY
    return BlockMask._from_matrices(partial, full, block, mask_mod, (Q_LEN, KV_LEN))


def create_mask(
    mask_mod: MaskMod, B: int | None, H: int | None, Q_LEN: int, KV_LEN: int
) -> Bool[Array, "B H Q KV"]:
    """The whole mask, `(B, H, Q_LEN, KV_LEN)`: to look at small ones, and to test.

    Raises:
        ValueError: as `create_block_mask`.
    """
    _, lengths = _checked(mask_mod, B, H, Q_LEN, KV_LEN)
    over_heads = jax.vmap(over_pairs(mask_mod), in_axes=(None, 0, None, None))
    over_batch = jax.vmap(over_heads, in_axes=(0, None, None, None))
    return over_batch(*(jnp.arange(size) for size in lengths))


def _checked(
    mask_mod: MaskMod, B: int | None, H: int | None, Q_LEN: int, KV_LEN: int
) -> tuple[ClosedJaxpr, tuple[int, int, int, int]]:
    """The program of `mask_mod`, and the four sizes with 1 for None."""
    lengths = (1 if B is None else B, 1 if H is None else H, Q_LEN, KV_LEN)
    for name, value in zip(("B", "H", "Q_LEN", "KV_LEN"), lengths, strict=True):
        require_positive(name, require_integer(name, value))
    program = check_mask_mod(mask_mod)
    remedy = "{0}=None makes one mask for all {1}, from the first: pass {0}=the number of {1}"
    remedies = {
        "b": remedy.format("B", "batch entries") if B is None else None,
        "h": remedy.format("H", "query heads") if H is None else None,
    }
    check_axes(program, remedies)
    return program, lengths


def _within(
    grid: Array | np.ndarray, full: Array | np.ndarray | None, mask_mod: MaskMod, size: tuple[int, int]
) -> MaskMod:
    """`mask_mod` in the blocks of `grid`, everything in those of `full`, nothing elsewhere."""

    def listed(blocks: Array | np.ndarray, b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
        leading = [0 if n == 1 else i for i, n in zip((b, h), blocks.shape, strict=False)]
        place = (*leading[: blocks.ndim - 2], q_idx // size[0], kv_idx // size[1])
        return jnp.asarray(blocks)[place]

    def within(b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
        place = (b, h, q_idx, kv_idx)
        allowed = listed(grid, *place) & mask_mod(*place)
        return allowed if full is None else allowed | listed(full, *place)

    return within
