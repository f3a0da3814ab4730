"""How attention is cut up: heads into groups, queries and keys into tiles.

Shapes, beside those of the house: `k` key/value heads in a group and `r` query heads for each of them, `q`
and `s` queries and keys in a tile, `m = r q` rows of a tile, `rows` and `columns` the number of tiles.
"""

import dataclasses

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int, Shaped

from jax_attn.functional.blockwise.plan import Plan
from jax_attn.functional.terms import Place, Terms, over_tile


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
    scale: float

    @property
    def repeat_groups(self) -> int:
        """In how many groups the query heads of one key/value head are computed."""
        return self.repeats // self.group_repeats

    @property
    def groups(self) -> int:
        """In how many groups the heads of one batch entry are computed."""
        return self.kv_heads // self.group_kv_heads * self.repeat_groups


def make_layout(query: Array, key: Array, scale: float, most_heads: int = 2) -> Layout:
    """The layout that computes up to `most_heads` query heads together."""
    (batch, queries, heads, _), (_, keys, kv_heads, _) = query.shape, key.shape
    repeats = heads // kv_heads
    group_repeats = _largest_divisor(repeats, most_heads)
    group_kv_heads = _largest_divisor(kv_heads, most_heads // repeats) if group_repeats == repeats else 1
    return Layout(batch, queries, keys, kv_heads, repeats, group_kv_heads, group_repeats, scale)


def _largest_divisor(n: int, most: int) -> int:
    return max((d for d in range(1, max(most, 1) + 1) if n % d == 0), default=1)


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
    def h(self) -> Int[Array, "k r"]:
        """The query heads."""
        kv = self.first_kv + jnp.arange(self.layout.group_kv_heads, dtype=jnp.int32)[:, None]
        return (
            kv * self.layout.repeats
            + self.first_repeat
            + jnp.arange(self.layout.group_repeats, dtype=jnp.int32)
        )

    def query_tiles(
        self, x: Float[Array, "B T N *d"], size: int, fill: float = 0.0
    ) -> Float[Array, "rows k m *d"]:
        """This group's part of an array of queries, in tiles."""
        layout = self.layout
        x = x.reshape(*x.shape[:2], layout.kv_heads, layout.repeats, *x.shape[3:])
        part = (1, layout.queries, layout.group_kv_heads, layout.group_repeats, *x.shape[4:])
        start = _at(self.b, 0, self.first_kv, self.first_repeat, *[0] * (x.ndim - 4))
        x = _tiles(lax.dynamic_slice(x, start, part)[0], size, fill)  # (rows, q, k, r, *d)
        x = jnp.moveaxis(x, 1, 3)
        return x.reshape(*x.shape[:2], -1, *x.shape[4:])

    def key_tiles(self, x: Float[Array, "B S K d"], size: int) -> Float[Array, "columns k s d"]:
        """This group's part of an array of keys, in tiles."""
        part = (1, x.shape[1], self.layout.group_kv_heads, x.shape[3])
        return _tiles(lax.dynamic_slice(x, _at(self.b, 0, self.first_kv, 0), part)[0], size, 0.0).swapaxes(
            1, 2
        )

    def put_queries(self, x: Float[Array, "B T N *d"], tiles: Float[Array, "rows k m *d"]) -> Array:
        """`x` with this group's part taken from tiles."""
        layout, rest = self.layout, tiles.shape[3:]
        rows, k, m = tiles.shape[:3]
        tiles = tiles.reshape(rows, k, layout.group_repeats, m // layout.group_repeats, *rest)
        part = jnp.moveaxis(tiles, 3, 1).reshape(-1, k, layout.group_repeats, *rest)[None, : layout.queries]
        grouped = x.reshape(*x.shape[:2], layout.kv_heads, layout.repeats, *rest)
        start = _at(self.b, 0, self.first_kv, self.first_repeat, *[0] * len(rest))
        return lax.dynamic_update_slice(grouped, part.astype(x.dtype), start).reshape(x.shape)

    def put_keys(self, x: Float[Array, "B S K d"], tiles: Float[Array, "columns k s d"]) -> Array:
        """`x` with this group's part taken from tiles, or added to where groups share a key/value head."""
        columns, k, s, d = tiles.shape
        part = tiles.swapaxes(1, 2).reshape(1, columns * s, k, d)[:, : x.shape[1]].astype(x.dtype)
        start = _at(self.b, 0, self.first_kv, 0)
        if self.layout.repeat_groups > 1:
            part += lax.dynamic_slice(x, start, part.shape)
        return lax.dynamic_update_slice(x, part, start)


def _at(*indices: Array | int) -> list[Array]:
    return [jnp.asarray(index, jnp.int32) for index in indices]


def _tiles(x: Float[Array, "n *d"], size: int, fill: float) -> Float[Array, "tiles size *d"]:
    if short := -x.shape[0] % size:
        x = jnp.pad(x, [(0, short)] + [(0, 0)] * (x.ndim - 1), constant_values=fill)
    return x.reshape(-1, size, *x.shape[1:])


@dataclasses.dataclass(frozen=True)
class Tile:
    """The scores of one group, one block of queries and one block of keys."""

    group: Group
    plan: Plan
    row: Int[Array, ""]
    column: Int[Array, ""]

    @property
    def _q_idx(self) -> Int[Array, "q"]:
        return self.row * self.plan.q_size + jnp.arange(self.plan.q_size, dtype=jnp.int32)

    @property
    def _kv_idx(self) -> Int[Array, "s"]:
        return self.column * self.plan.kv_size + jnp.arange(self.plan.kv_size, dtype=jnp.int32)

    @property
    def place(self) -> Place:
        """Where the tile lies; what lies behind the end counts as the last position."""
        layout = self.group.layout
        q_idx = (
            jnp.minimum(self._q_idx, layout.queries - 1) if layout.queries % self.plan.q_size else self._q_idx
        )
        kv_idx = (
            jnp.minimum(self._kv_idx, layout.keys - 1) if layout.keys % self.plan.kv_size else self._kv_idx
        )
        return Place(self.group.b, self.group.h, q_idx, kv_idx)

    def part_of(self, x: Array) -> Shaped[Array, "#k #r #q #s"]:
        """This tile's part of an array that broadcasts against `(B, N, T, S)`; axes of one stay."""
        heads = self.group.h.shape
        part = lax.dynamic_slice(x, self._start(x), self._part_shape(x))[0]
        return part.reshape(*(heads if part.shape[0] > 1 else (1, 1)), *part.shape[1:])

    def add_to(self, x: Array, tile: Float[Array, "k r q s"]) -> Array:
        """`x`, which broadcasts against `(B, N, T, S)`, with a tile added to its part."""
        tile = tile.reshape(1, -1, *tile.shape[2:])
        shape = self._part_shape(x)
        tile = tile.sum([axis for axis in range(4) if shape[axis] == 1], keepdims=True).astype(x.dtype)
        start = self._start(x)
        return lax.dynamic_update_slice(x, lax.dynamic_slice(x, start, shape) + tile, start)

    def allowed(self, terms: Terms, partial: bool) -> Bool[Array, "#k #r #q #s"] | None:
        """What of the tile may be attended to; None is everything."""
        masks = []
        for mod in (terms.every_mask_mod, terms.mask_mod if partial else None):
            if mod is not None:
                masks.append(over_tile(mod, self.place))
        if terms.mask is not None:
            masks.append(self.part_of(terms.mask))
        if partial and self.group.layout.keys % self.plan.kv_size:
            masks.append((self._kv_idx < self.group.layout.keys)[None, None, None])
        result = None
        for mask in masks:
            result = mask if result is None else result & mask
        return result

    def _start(self, x: Array) -> list[Array]:
        layout = self.group.layout
        head = self.group.first_kv * layout.repeats + self.group.first_repeat
        whole = (self.group.b, head, self.row * self.plan.q_size, self.column * self.plan.kv_size)
        return _at(*(at if size > 1 else 0 for at, size in zip(whole, x.shape, strict=True)))

    def _part_shape(self, x: Array) -> tuple[int, ...]:
        whole = (1, self.group.h.size, self.plan.q_size, self.plan.kv_size)
        return tuple(part if size > 1 else 1 for part, size in zip(whole, x.shape, strict=True))


def padded_terms(terms: Terms, plan: Plan, layout: Layout) -> Terms:
    """The terms with bias and mask filled up to whole tiles."""
    return dataclasses.replace(
        terms, bias=_filled_up(terms.bias, plan, layout), mask=_filled_up(terms.mask, plan, layout)
    )


def _filled_up(x: Array | None, plan: Plan, layout: Layout) -> Array | None:
    if x is None:
        return None
    short = (-layout.queries % plan.q_size, -layout.keys % plan.kv_size)
    widths = [n if size > 1 else 0 for n, size in zip(short, x.shape[2:], strict=True)]
    return jnp.pad(x, [(0, 0), (0, 0), *((0, n) for n in widths)]) if any(widths) else x
