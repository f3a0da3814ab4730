"""Which blocks of the score matrix are empty, full, or need the mask."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Int

from jax_attn.functional.checks import require_positive

Leaf = Any  # an array, or what a transformation of trees puts in its place
MaskMod = Callable[[Array, Array, Array, Array], Array]

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
        kv_num_blocks: Int[Array, "B H Q_BLOCKS"],
        kv_indices: Int[Array, "B H Q_BLOCKS KV_BLOCKS"],
        full_kv_num_blocks: Int[Array, "B H Q_BLOCKS"] | None = None,
        full_kv_indices: Int[Array, "B H Q_BLOCKS KV_BLOCKS"] | None = None,
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
        grid = _dense(kv_num_blocks, kv_indices)
        full = (
            None
            if full_kv_num_blocks is None or full_kv_indices is None
            else _dense(full_kv_num_blocks, full_kv_indices)
        )
        listed = _within(grid, full, mask_mod or noop_mask, _pair(BLOCK_SIZE))
        lists = (kv_num_blocks, kv_indices, full_kv_num_blocks, full_kv_indices)
        return cls._from_lists(*lists, BLOCK_SIZE, listed, seq_lengths, compute_q_blocks)

    @classmethod
    def _from_lists(
        cls,
        kv_num_blocks: Array,
        kv_indices: Array,
        full_kv_num_blocks: Array | None,
        full_kv_indices: Array | None,
        BLOCK_SIZE: int | tuple[int, int],
        mask_mod: MaskMod,
        seq_lengths: tuple[int, int] | None,
        compute_q_blocks: bool,
    ) -> "BlockMask":
        """From lists that agree with `mask_mod`."""
        block_size = _pair(BLOCK_SIZE)
        rows, columns = kv_indices.shape[-2:]
        by_column: dict[str, Array | None] = {}
        if compute_q_blocks:
            by_column["q_num_blocks"], by_column["q_indices"] = _ordered(
                _dense(kv_num_blocks, kv_indices).swapaxes(-1, -2)
            )
            if full_kv_num_blocks is not None and full_kv_indices is not None:
                by_column["full_q_num_blocks"], by_column["full_q_indices"] = _ordered(
                    _dense(full_kv_num_blocks, full_kv_indices).swapaxes(-1, -2)
                )
        return cls(
            seq_lengths=seq_lengths or (rows * block_size[0], columns * block_size[1]),
            kv_num_blocks=kv_num_blocks,
            kv_indices=kv_indices,
            full_kv_num_blocks=full_kv_num_blocks,
            full_kv_indices=full_kv_indices,
            BLOCK_SIZE=block_size,
            mask_mod=mask_mod,
            **by_column,
        )

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
        dense = _dense(self.kv_num_blocks, self.kv_indices)
        if self.full_kv_num_blocks is not None:
            dense = dense | _dense(self.full_kv_num_blocks, self.full_kv_indices)
        return dense.astype(jnp.int32)

    def to_string(self, grid_size: int | tuple[int, int] = (20, 20), limit: int = 4) -> str:
        """A picture of each batch entry and head: `█` all blocks looked at, `░` some, blank none.

        Args:
            grid_size: the most rows and columns of a picture; -1 draws every block.
            limit: the most pictures.
        """
        dense = np.asarray(self.to_dense())
        *leading, rows, columns = dense.shape
        most = (rows, columns) if grid_size == -1 else _pair(grid_size)
        row_step, column_step = max(1, -(-rows // most[0])), max(1, -(-columns // most[1]))
        pictures = []
        for place in itertools.product(*map(range, leading)):
            if len(pictures) == limit:
                pictures.append(
                    "...\nmore with to_string(limit=N), or one at a time with block_mask[batch, head]"
                )
                break
            lines = [str(place)]
            for row in range(0, rows, row_step):
                cells = (
                    dense[place][row : row + row_step, column : column + column_step].mean()
                    for column in range(0, columns, column_step)
                )
                lines.append("".join(2 * ("█" if cell == 1 else " " if cell == 0 else "░") for cell in cells))
            pictures.append("\n".join(lines) + "\n")
        return "\n".join(pictures)

    def __str__(self) -> str:
        picture = self.to_string().strip()
        return f"BlockMask(shape={self.shape}, sparsity={self.sparsity():.2f}%,\n{picture}\n)"

    def __getitem__(self, index: Any) -> "BlockMask":
        """The block mask of some batch entries, heads and blocks of queries; an integer keeps its axis.

        Unlike torch's, the part still knows its mask: its `mask_mod` counts from the part's own corner.
        """
        index = index if isinstance(index, tuple) else (index,)
        sizes = self.kv_num_blocks.shape
        index = tuple(
            slice(i % n, i % n + 1) if isinstance(i, int) and -n <= i < n else i
            for i, n in zip((*index, *[slice(None)] * 3), sizes, strict=False)
        )
        batch, head, row = (np.arange(n)[i] for i, n in zip(index, sizes, strict=True))
        q_len, kv_len = self.seq_lengths
        rows, full, size, whole = (
            sizes[2],
            self.full_kv_num_blocks is not None,
            self.BLOCK_SIZE[0],
            self.mask_mod,
        )
        missing = (
            rows * size - q_len if len(row) and row[-1] == rows - 1 else 0
        )  # the last block may be short

        def mask_mod(b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
            b = jnp.asarray(batch)[b] if sizes[0] > 1 else b
            h = jnp.asarray(head)[h] if sizes[1] > 1 else h
            return whole(b, h, jnp.asarray(row)[q_idx // size] * size + q_idx % size, kv_idx)

        return BlockMask._from_lists(
            self.kv_num_blocks[index],
            self.kv_indices[index],
            self.full_kv_num_blocks[index] if full else None,
            self.full_kv_indices[index] if full else None,
            BLOCK_SIZE=self.BLOCK_SIZE,
            mask_mod=mask_mod,
            seq_lengths=(len(row) * size - missing, kv_len),
            compute_q_blocks=self.q_indices is not None,
        )

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        """The arrays (and a `Partial` mask mod), and what is static."""
        names = [
            field.name
            for field in dataclasses.fields(self)
            if field.name not in ("seq_lengths", "BLOCK_SIZE")
        ]
        names = names if isinstance(self.mask_mod, Partial) else names[:-1]
        static = None if isinstance(self.mask_mod, Partial) else self.mask_mod
        children = [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in names]
        return children, (tuple(names), self.seq_lengths, self.BLOCK_SIZE, static)

    @classmethod
    def tree_unflatten(cls, static: tuple[Any, ...], children: Any) -> "BlockMask":
        """The inverse of `tree_flatten_with_keys`."""
        names, seq_lengths, block_size, mask_mod = static
        given = dict(zip(names, children, strict=True))
        if mask_mod is not None:
            given["mask_mod"] = mask_mod
        return cls(seq_lengths=seq_lengths, BLOCK_SIZE=block_size, **given)


def create_block_mask(
    mask_mod: MaskMod,
    B: int | None,
    H: int | None,
    Q_LEN: int,
    KV_LEN: int,
    BLOCK_SIZE: int | tuple[int, int] = DEFAULT_BLOCK_SIZE,
    separate_full_blocks: bool = True,
) -> BlockMask:
    """The block mask of `mask_mod`.

    The mask is asked for one row of blocks at a time and only counts are kept, so 32k x 32k costs time
    (each pair is asked once) but no memory to speak of.

    Args:
        mask_mod: `(b, h, q_idx, kv_idx) -> bool`, on scalars; True = attend.
        B: batch entries, or None where the mask is the same for all.
        H: query heads, or None where the mask is the same for all.
        Q_LEN: number of queries.
        KV_LEN: number of keys.
        BLOCK_SIZE: of queries and keys, or of each.
        separate_full_blocks: whether full blocks are told from partial ones.

    Raises:
        ValueError: a size is below 1, or `mask_mod` does not make one boolean of four integers.

    Source: `torch.nn.attention.flex_attention.create_block_mask`.
    """
    B, H, (q_size, kv_size) = B or 1, H or 1, _pair(BLOCK_SIZE)
    for name, value in {"B": B, "H": H, "Q_LEN": Q_LEN, "KV_LEN": KV_LEN}.items():
        require_positive(name, value)
    require_positive("BLOCK_SIZE", min(q_size, kv_size))
    check_mask_mod(mask_mod)
    rows, columns = -(-Q_LEN // q_size), -(-KV_LEN // kv_size)
    kv_idx = jnp.arange(columns * kv_size)

    def count_row(place: tuple[Array, Array, Array]) -> Int[Array, "columns"]:
        b, h, row = place
        q_idx = row * q_size + jnp.arange(q_size)
        allowed = _over_pairs(mask_mod)(b, h, jnp.minimum(q_idx, Q_LEN - 1), jnp.minimum(kv_idx, KV_LEN - 1))
        allowed &= (q_idx < Q_LEN)[:, None] & (kv_idx < KV_LEN)
        return allowed.sum(axis=0, dtype=jnp.int32).reshape(columns, kv_size).sum(axis=1)

    places = jnp.meshgrid(jnp.arange(B), jnp.arange(H), jnp.arange(rows), indexing="ij")
    counts = jax.lax.map(count_row, tuple(axis.ravel() for axis in places)).reshape(B, H, rows, columns)
    full = counts == q_size * kv_size if separate_full_blocks else jnp.zeros_like(counts, bool)
    full_lists = _ordered(full) if separate_full_blocks else (None, None)
    lists = (*_ordered((counts > 0) & ~full), *full_lists)
    return BlockMask._from_lists(*lists, (q_size, kv_size), mask_mod, (Q_LEN, KV_LEN), True)


def create_mask(
    mask_mod: MaskMod, B: int | None, H: int | None, Q_LEN: int, KV_LEN: int
) -> Bool[Array, "B H Q KV"]:
    """The whole mask, `(B, H, Q_LEN, KV_LEN)`: to look at small ones, and to test."""
    check_mask_mod(mask_mod)
    over_heads = jax.vmap(_over_pairs(mask_mod), in_axes=(None, 0, None, None))
    over_batch = jax.vmap(over_heads, in_axes=(0, None, None, None))
    return over_batch(*(jnp.arange(size) for size in (B or 1, H or 1, Q_LEN, KV_LEN)))


def check_mask_mod(mask_mod: MaskMod) -> None:
    """A ValueError unless `mask_mod` makes one boolean of four integers."""
    check_mod("mask_mod(b, h, q_idx, kv_idx)", mask_mod, jnp.bool_)


def check_mod(call: str, mod: Callable[..., Array], result: Any, *leading: jax.ShapeDtypeStruct) -> None:
    """A ValueError unless `mod`, on scalars, returns a scalar of a kind that `result` names."""
    index = jax.ShapeDtypeStruct((), jnp.int32)
    expected = f"{call} must map scalars to one {jnp.dtype(result).name if result is jnp.bool_ else 'number'}"
    try:
        out = jax.eval_shape(mod, *leading, index, index, index, index)
    except (TypeError, IndexError, ValueError) as error:
        raise ValueError(f"{expected}; calling it failed: {error}") from error
    if not hasattr(out, "shape") or out.shape != () or not jnp.issubdtype(out.dtype, result):
        raise ValueError(f"{expected}, got {out}")


def _over_pairs(mask_mod: MaskMod) -> MaskMod:
    """From one query and one key to `(queries, keys)`."""
    over_keys = jax.vmap(mask_mod, in_axes=(None, None, None, 0))
    return jax.vmap(over_keys, in_axes=(None, None, 0, None))


def _ordered(dense: Bool[Array, "*rows columns"]) -> tuple[Int[Array, "*rows"], Int[Array, "*rows columns"]]:
    """How many are set in each row, and all indices, those that are set first."""
    indices = jnp.argsort(~dense, axis=-1, stable=True)
    return dense.sum(-1, dtype=jnp.int32), indices.astype(jnp.int32)


def _dense(
    num_blocks: Int[Array, "*rows"], indices: Int[Array, "*rows columns"]
) -> Bool[Array, "*rows columns"]:
    """The inverse of `_ordered`."""
    columns = indices.shape[-1]
    counted = jnp.arange(columns) < num_blocks[..., None]
    return (jax.nn.one_hot(indices, columns, dtype=bool) & counted[..., None]).any(-2)


def _within(grid: Array, full: Array | None, mask_mod: MaskMod, size: tuple[int, int]) -> MaskMod:
    """`mask_mod` in the blocks of `grid`, everything in those of `full`, nothing elsewhere."""

    def listed(blocks: Array, b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
        leading = [0 if n == 1 else i for i, n in zip((b, h), blocks.shape, strict=False)]
        return blocks[(*leading[: blocks.ndim - 2], q_idx // size[0], kv_idx // size[1])]

    def within(b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
        place = (b, h, q_idx, kv_idx)
        allowed = listed(grid, *place) & mask_mod(*place)
        return allowed if full is None else allowed | listed(full, *place)

    return within


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)
