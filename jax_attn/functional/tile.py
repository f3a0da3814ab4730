"""What happens to a tile of scores between the two matrix products, in every implementation.

A tile has axes `(*lead, T, S)`, or a part of them. Its place is four arrays of indices that broadcast against it,
so the same code serves the whole matrix, one tile after another, or many tiles side by side.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jax_attn.functional.terms import Mod, Terms


class Place(NamedTuple):
    """Where a tile lies: batch entries, query heads and positions, each of the tile's rank."""

    b: Int[Array, "..."]
    h: Int[Array, "..."]
    q_idx: Int[Array, "..."]
    kv_idx: Int[Array, "..."]

    @property
    def shape(self) -> tuple[Any, ...]:
        """The tile's shape."""
        return jnp.broadcast_shapes(*(x.shape for x in self))


@dataclasses.dataclass(frozen=True)
class Tile:
    """A tile of scores.

    Attributes:
        place: where it lies.
        cut: the tile's part of an array that broadcasts against `(B, N, T, S)`.
        lengths: how many queries and keys there are; a tile may reach beyond the last.
        partial: whether the block mask and the band have to be asked.
        ragged: whether a partial tile may reach beyond the last key.
        open: what else must hold, or None.
    """

    place: Place
    cut: Callable[[Array], Array]
    lengths: tuple[Any, Any]
    partial: bool = True
    ragged: bool = False
    open: Bool[Array, "..."] | None = None

    def _inside(self, terms: Terms) -> Place:
        """The place, with what lies behind the end counted as the last position: mods index arrays by it."""
        queries, keys = self.lengths
        b, h, q_idx, kv_idx = self.place
        inside = Place(b, h, jnp.minimum(q_idx, queries - 1), jnp.minimum(kv_idx, keys - 1))
        return _counted_from(terms.origin, inside)

    def modified(
        self, scores: Float[Array, "..."], terms: Terms, with_bias: bool = True
    ) -> Float[Array, "..."]:
        """`score_mod(softcap(scores)) + bias`."""
        dtype = scores.dtype
        if terms.softcap is not None:
            scores = terms.softcap * jnp.tanh(scores / terms.softcap)
        if terms.score_mod is not None:
            scores = over_tile(terms.score_mod, self._inside(terms), scores).astype(dtype)
        if with_bias and terms.bias is not None:
            scores = scores + self.cut(terms.bias).astype(dtype)
        return scores

    def allowed(self, terms: Terms) -> Bool[Array, "..."] | None:
        """What of the tile may be attended to; None is everything."""
        _, _, q_idx, kv_idx = self.place
        masks = [] if self.open is None else [self.open]
        if terms.mask is not None:
            masks.append(self.cut(terms.mask))
        if terms.query_seq_lengths is not None:
            masks.append(q_idx < self.cut(terms.query_seq_lengths))
        if terms.key_value_seq_lengths is not None:
            masks.append(kv_idx < self.cut(terms.key_value_seq_lengths))
        if terms.segment_ids is not None:
            of_query, of_key = terms.segment_ids
            masks.append(self.cut(of_query) == self.cut(of_key))
        if self.partial:
            masks += self._pattern(terms)
        allowed = None
        for mask in masks:
            allowed = mask if allowed is None else allowed & mask
        return allowed

    def _pattern(self, terms: Terms) -> list[Bool[Array, "..."]]:
        _, _, q_idx, kv_idx = self.place
        before, after = terms.band
        masks = []
        if before is not None:
            masks.append(kv_idx >= q_idx - before)
        if after is not None:
            masks.append(kv_idx <= q_idx + after)
        if terms.mask_mod is not None:
            masks.append(over_tile(terms.mask_mod, self._inside(terms)))
        if self.ragged:
            masks.append(kv_idx < self.lengths[1])
        return masks

    def keeps(self, terms: Terms) -> Bool[Array, "..."] | None:
        """Which weights dropout keeps; None is all of them."""
        return (
            None if terms.dropout is None else terms.dropout.keeps(*_counted_from(terms.origin, self.place))
        )


def _counted_from(origin: Any, place: Place) -> Place:
    return place if origin is None else Place(*(x + start for x, start in zip(place, origin, strict=True)))


def over_tile(mod: Mod, place: Place, *scores: Float[Array, "..."]) -> Array:
    """A mod of scalars at every entry of a tile; where it does not vary along an axis, that axis is 1 long.

    An array that each batch entry reads in its own row alone goes along with the entries, and is not indexed.
    """
    batch = place.b.shape[0]
    by_entry = mod.by_entry(batch) if batch != 1 else [False] * len(mod.captured)
    captured = [x[:, None] if yes else x for x, yes in zip(mod.captured, by_entry, strict=True)]

    def f(captured: list[Array], *scalars: Array) -> Array:
        return mod.with_captured(captured)(*scalars)

    constant = []
    for axis in reversed(range(place.b.ndim)):
        in_axes = (*(0 for _ in scores), *(0 if x.shape[axis] != 1 else None for x in place))
        if any(at is not None for at in in_axes):
            f = jax.vmap(f, in_axes=([0 if yes and axis == 0 else None for yes in by_entry], *in_axes))
        else:
            constant.append(axis)
    result = f(captured, *scores, *(x.reshape([n for n in x.shape if n != 1]) for x in place))
    return jnp.expand_dims(result, sorted(constant))
