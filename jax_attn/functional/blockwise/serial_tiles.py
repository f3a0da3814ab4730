"""How attention is cut up to be computed one block after another: heads into groups, positions into tiles.

Shapes, beside those of the house: `G` groups, `k` key/value heads in a group and `r` query heads for each of them,
`q` and `s` queries and keys in a tile, `m = r q` rows of a tile, `rows` and `columns` the number of tiles.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int, Num

from jax_attn.functional.blockwise.plan import MOST_ROWS
from jax_attn.functional.tile import Place, Tile

FEWEST_QUERIES = 512  # in a block, where the query heads that share keys stand below one another


@dataclasses.dataclass(frozen=True)
class Layout:
    """The static facts of a call: its sizes, and how many heads are computed together."""

    batch: int
    queries: int
    keys: int
    kv_heads: int
    repeats: int
    group_kv_heads: int
    group_repeats: int

    @property
    def lengths(self) -> tuple[int, int]:
        """The number of queries and of keys."""
        return self.queries, self.keys

    @property
    def repeat_groups(self) -> int:
        """In how many groups the query heads of one key/value head are computed."""
        return self.repeats // self.group_repeats

    @property
    def groups(self) -> int:
        """In how many groups the heads of one batch entry are computed."""
        return self.kv_heads // self.group_kv_heads * self.repeat_groups


def make_layout(query: Array, key: Array) -> Layout:
    """One key/value head at a time, with as many of its query heads as make a tall tile."""
    (batch, queries, heads, _), (_, keys, kv_heads, _) = query.shape, key.shape
    repeats = heads // kv_heads
    enough = max(1, MOST_ROWS // min(queries, FEWEST_QUERIES))
    group_repeats = max(n for n in range(1, repeats + 1) if repeats % n == 0 and n <= enough)
    return Layout(batch, queries, keys, kv_heads, repeats, 1, group_repeats)


class Region(NamedTuple):
    """Where a tile of scores lies: its first query and key, and how many of each it has."""

    first_query: Int[Array, ""]
    queries: int
    first_key: Int[Array, ""]
    keys: int


@dataclasses.dataclass(frozen=True)
class Group:
    """One group of heads of one batch entry: `number` of `layout.batch * layout.groups`."""

    layout: Layout
    number: Int[Array, ""]

    @property
    def b(self) -> Int[Array, ""]:
        """The batch entry."""
        return self.number // self.layout.groups

    @property
    def index(self) -> Int[Array, ""]:
        """The number of the group within its batch entry."""
        return self.number % self.layout.groups

    @property
    def first_kv(self) -> Int[Array, ""]:
        """The first key/value head."""
        return self.index // self.layout.repeat_groups * self.layout.group_kv_heads

    @property
    def first_repeat(self) -> Int[Array, ""]:
        """The first of the query heads that share a key/value head."""
        return self.index % self.layout.repeat_groups * self.layout.group_repeats

    @property
    def first_head(self) -> Int[Array, ""]:
        """The first query head."""
        return self.first_kv * self.layout.repeats + self.first_repeat

    @property
    def heads(self) -> tuple[int, int]:
        """How many key/value heads, and query heads of each."""
        return self.layout.group_kv_heads, self.layout.group_repeats

    def query_tiles(
        self, x: Num[Array, "B T N *d"], size: int, fill: float = 0.0
    ) -> Num[Array, "rows k m *d"]:
        """This group's part of an array of queries, in tiles."""
        layout = self.layout
        x = x.reshape(*x.shape[:2], layout.kv_heads, layout.repeats, *x.shape[3:])
        part = (1, layout.queries, *self.heads, *x.shape[4:])
        starts = _at(self.b, 0, self.first_kv, self.first_repeat, *[0] * (x.ndim - 4))
        x = _tiles(lax.dynamic_slice(x, starts, part)[0], size, fill)  # (rows, q, k, r, *d)
        x = jnp.moveaxis(x, 1, 3)
        return x.reshape(*x.shape[:2], -1, *x.shape[4:])

    def key_tiles(self, x: Num[Array, "B S K d"], size: int) -> Num[Array, "columns k s d"]:
        """This group's part of an array of keys, in tiles."""
        part = (1, x.shape[1], self.layout.group_kv_heads, x.shape[3])
        part = lax.dynamic_slice(x, _at(self.b, 0, self.first_kv, 0), part)[0]
        return _tiles(part, size, 0.0).swapaxes(1, 2)

    def tile(self, region: Region, partial: bool) -> Tile:
        """The scores of a region."""
        kv_heads, repeats = self.heads
        heads = self.first_kv + jnp.arange(kv_heads, dtype=jnp.int32)[:, None, None, None]
        within = self.first_repeat + jnp.arange(repeats, dtype=jnp.int32)[None, :, None, None]
        place = Place(
            self.b[None, None, None, None],
            heads * self.layout.repeats + within,
            (region.first_query + jnp.arange(region.queries, dtype=jnp.int32))[None, None, :, None],
            (region.first_key + jnp.arange(region.keys, dtype=jnp.int32))[None, None, None, :],
        )

        def cut(x: Array) -> Array:
            part = lax.dynamic_slice(x, starts(self, region, x), part_shape(self, region, x))[0]
            return part.reshape(*(self.heads if x.shape[1] > 1 else (1, 1)), *part.shape[1:])

        ragged = self.layout.keys % region.keys > 0
        return Tile(place, cut, self.layout.lengths, partial, ragged)


def add_to(group: Group, region: Region, x: Array, tile: Float[Array, "k r q s"]) -> Array:
    """`x`, which broadcasts against `(B, N, T, S)`, with a tile added to its part."""
    tile = tile.reshape(1, -1, *tile.shape[2:])
    shape, start = part_shape(group, region, x), starts(group, region, x)
    tile = tile.sum([axis for axis in range(4) if shape[axis] == 1], keepdims=True).astype(x.dtype)
    return lax.dynamic_update_slice(x, lax.dynamic_slice(x, start, shape) + tile, start)


def starts(group: Group, region: Region, x: Array) -> list[Array]:
    """Where a tile's part of an array begins that broadcasts against `(B, N, T, S)`."""
    whole = (group.b, group.first_head, region.first_query, region.first_key)
    return _at(*(at if size > 1 else 0 for at, size in zip(whole, x.shape, strict=True)))


def part_shape(group: Group, region: Region, x: Array) -> tuple[int, ...]:
    """The shape of that part; axes of one stay."""
    kv_heads, repeats = group.heads
    whole = (1, kv_heads * repeats, region.queries, region.keys)
    return tuple(part if size > 1 else 1 for part, size in zip(whole, x.shape, strict=True))


def queries_of(layout: Layout, tiles: Num[Array, "G rows k m *d"]) -> Num[Array, "B T N *d"]:
    """An array of queries from the tiles of all groups."""
    kv_heads, repeats = layout.group_kv_heads, layout.group_repeats
    _, rows, _, m, *rest = tiles.shape
    groups = (layout.batch, layout.kv_heads // kv_heads, layout.repeat_groups)
    x = tiles.reshape(*groups, rows, kv_heads, repeats, m // repeats, *rest)
    x = jnp.moveaxis(x, (3, 6), (1, 2))  # (B, rows, q, kv groups, repeat groups, k, r, *d)
    x = x.swapaxes(4, 5)
    return x.reshape(layout.batch, -1, layout.kv_heads * layout.repeats, *rest)[:, : layout.queries]


def keys_of(layout: Layout, tiles: Float[Array, "G columns k s d"]) -> Float[Array, "B S K d"]:
    """An array of keys from the tiles of all groups, those that share a key/value head added up."""
    kv_heads = layout.group_kv_heads
    _, columns, _, s, d = tiles.shape
    groups = (layout.batch, layout.kv_heads // kv_heads, layout.repeat_groups)
    x = tiles.reshape(*groups, columns, kv_heads, s, d).sum(2)
    x = jnp.moveaxis(x, (2, 4), (1, 2))  # (B, columns, s, kv groups, k, d)
    return x.reshape(layout.batch, -1, layout.kv_heads, d)[:, : layout.keys]


def _at(*indices: Array | int) -> list[Array]:
    return [jnp.asarray(index, jnp.int32) for index in indices]


def _tiles(x: Num[Array, "n *d"], size: int, fill: float) -> Num[Array, "tiles size *d"]:
    if short := -x.shape[0] % size:
        x = jnp.pad(x, [(0, short)] + [(0, 0)] * (x.ndim - 1), constant_values=fill)
    return x.reshape(-1, size, *x.shape[1:])
