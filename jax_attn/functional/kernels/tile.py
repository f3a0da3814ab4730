"""The arithmetic of attention on one tile of scores, for kernels to put in their loops.

A tile is `(q_tile, kv_tile)`. Nothing here knows of memory, grids or devices.

    scores   s = scale q kᵀ,  t = score_mod(s)
    forward  p = exp(t - lse), o = p v                           (online: the running maximum stands for lse)
    backward dt = p (do vᵀ - delta), ds = scale vjp(score_mod)(dt), dq = ds k, dk = dsᵀ q, dv = pᵀ do

Source: FlashAttention-2 (arXiv 2307.08691), algorithms 1 and 2; FlexAttention (2412.05496).
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jax_attn.functional.kernels.hoisting import AXES, HoistedMod, Lookup

Read = Callable[[int, Array | None], Array]
"""From the number of a table and the tile of its index (or None) to its tile."""


@dataclasses.dataclass(frozen=True, eq=False)
class TilePlan:
    """What is known of a call before any array is.

    Attributes:
        scale: factor of the scores.
        lengths: queries and keys, without padding.
        block: queries and keys in a block of the block mask.
        tile: queries and keys that a kernel takes at a time; divides `block`.
        score_mod, mask_mod: None where there is none.
        steps: the most blocks of keys that a block of queries looks at, and the other way round.
        interpret: whether kernels are interpreted, on any device, instead of compiled.
    """

    scale: float
    lengths: tuple[int, int]
    block: tuple[int, int]
    tile: tuple[int, int]
    score_mod: HoistedMod | None
    mask_mod: HoistedMod | None
    steps: tuple[int, int]
    interpret: bool

    @property
    def lookups(self) -> tuple[Lookup, ...]:
        """What `score_mod` takes from outside."""
        return () if self.score_mod is None else self.score_mod.lookups

    def learned(self) -> list[int]:
        """The numbers of the tables that get a gradient: those of `score_mod` that hold floats."""
        return [i for i, x in enumerate(self.lookups) if jnp.issubdtype(x.var.aval.dtype, jnp.floating)]

    def learned_by(self, *axes: str) -> list[int]:
        """Those of `learned()` whose tables are whole along just these of the axes q_idx and kv_idx.

        What depends on neither counts as one of keys: its gradient is summed over them afterwards.
        """
        positions = ({"q_idx", "kv_idx"} & set(self.lookups[i].depends) for i in self.learned())
        return [
            i for i, own in zip(self.learned(), positions, strict=True) if (own or {"kv_idx"}) == set(axes)
        ]


class ScoreTile(NamedTuple):
    """Scores of a tile, before and after `score_mod`, and what it looked up.

    Attributes:
        place: of each of `AXES` the position, as a tile.
        score: scaled scores.
        post: what `score_mod` makes of them; -inf where nothing is allowed.
        allowed: a boolean tile, or None for everything.
        looked_up: tiles of the lookups of `score_mod`.
        indices: tiles of their indices, or None where there is but one entry.
    """

    place: dict[str, Array]
    score: Array
    post: Array
    allowed: Array | None
    looked_up: Sequence[Array]
    indices: Sequence[Array | None]


def dot(a: Array, b: Array, axes: tuple[int, int]) -> Array:
    """The product of two matrices over one axis of each, summed in float32 or wider."""
    wide = jnp.promote_types(a.dtype, jnp.float32)
    return lax.dot_general(a, b, (((axes[0],), (axes[1],)), ((), ())), preferred_element_type=wide)


def score_tile(
    plan: TilePlan, corner: tuple[Any, ...], q: Array, k: Array, read: Read, masked: bool
) -> ScoreTile:
    """The scores of the tile whose first corner is `(b, h, q_idx, kv_idx)`.

    Args:
        read: how a table is read.
        masked: whether `mask_mod` is asked; padding is left out in any case.
    """
    b, h, q_start, kv_start = (jnp.asarray(x, jnp.int32) for x in corner)
    shape = plan.tile
    rows = q_start + lax.broadcasted_iota(jnp.int32, shape, 0)
    columns = kv_start + lax.broadcasted_iota(jnp.int32, shape, 1)
    place = dict(
        zip(
            AXES,
            (jnp.full(shape, b, jnp.int32), jnp.full(shape, h, jnp.int32), rows, columns),
            strict=True,
        )
    )
    score = dot(q, k, (1, 1)) * plan.scale
    post, looked_up, indices = score, [], []
    if plan.score_mod is not None:
        looked_up, indices = plan.score_mod.look_up(place, read)
        post = plan.score_mod(place, looked_up, score).astype(score.dtype)
    conditions = []
    if masked and plan.mask_mod is not None:
        first = len(plan.lookups)
        tiles, _ = plan.mask_mod.look_up(place, lambda i, index: read(first + i, index))
        conditions.append(plan.mask_mod(place, tiles))
    # Queries behind the end must not reach dk, keys behind it must not reach anything.
    if plan.lengths[0] % plan.block[0]:
        conditions.append(rows < plan.lengths[0])
    if plan.lengths[1] % plan.block[1]:
        conditions.append(columns < plan.lengths[1])
    allowed = None
    for condition in conditions:
        allowed = condition if allowed is None else allowed & condition
    return ScoreTile(place, score, _only(allowed, post, -jnp.inf), allowed, looked_up, indices)


def attend(tile: ScoreTile, v: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
    """One step of online softmax.

    Args:
        state: of the tiles before, the maximum and the sum, `(q_tile, 1)`, and the output `(q_tile, Hv)`.
    """
    peak, total, output = state
    new_peak = jnp.maximum(peak, jnp.max(tile.post, axis=1, keepdims=True))
    base = _finite(new_peak)
    weights, shrink = jnp.exp(tile.post - base), jnp.exp(peak - base)
    total = shrink * total + jnp.sum(weights, axis=1, keepdims=True)
    return new_peak, total, shrink * output + dot(weights.astype(v.dtype), clean(tile, v, 0), (1, 0))


def clean(tile: ScoreTile, x: Array, axis: int) -> Array:
    """`x`, keys (`axis=0`) or queries (1) of a tile, with 0 for those that nobody sees or that see nobody.

    They meet weights of 0 only, but may be anything, and 0 times NaN is NaN.
    """
    if tile.allowed is None:
        return x
    allowed = jnp.where(tile.allowed, 1.0, 0.0)
    seen = jnp.max(allowed if axis == 1 else allowed.T, axis=1, keepdims=True)
    return jnp.where(seen > 0, x, jnp.zeros_like(x))


def finish(state: tuple[Array, Array, Array]) -> tuple[Array, Array]:
    """The output and the log-sum-exp, from the state after the last tile."""
    peak, total, output = state
    nothing = total == 0
    whole = jnp.where(nothing, 1.0, total)
    return output / whole, jnp.where(nothing, -jnp.inf, _finite(peak) + jnp.log(whole))


def gradients(
    plan: TilePlan, tile: ScoreTile, v: Array, do: Array, lse: Array, delta: Array
) -> tuple[Array, Array, list[Array]]:
    """The weights, the gradient of `q kᵀ`, and that of each of `plan.learned()`: tiles all.

    Args:
        lse: `(q_tile, 1)`.
        delta: `(q_tile, 1)`, the row sums of `o do`, less the gradient of the log-sum-exp.
    """
    weights = _only(tile.allowed, jnp.exp(tile.post - _finite(lse)), 0.0)
    d_post = weights * (dot(do, v, (1, 1)) - delta)
    d_score, d_learned = d_post, []
    score_mod = plan.score_mod
    if score_mod is not None:
        learned = plan.learned()

        def post(score: Array, *tiles: Array) -> Array:
            looked_up = list(tile.looked_up)
            for number, x in zip(learned, tiles, strict=True):
                looked_up[number] = x
            return score_mod(tile.place, looked_up, score).astype(score.dtype)

        _, pull_back = jax.vjp(post, tile.score, *(tile.looked_up[i] for i in learned))
        d_score, *d_learned = pull_back(d_post)
    # A mod may have an infinite slope where nothing is allowed, and 0 times that is NaN.
    d_learned = [_only(tile.allowed, x, 0.0) for x in d_learned]
    return weights, _only(tile.allowed, d_score, 0.0) * plan.scale, d_learned


def pick(entry: Callable[[Any], Array], index: Array | None, entries: int, shape: tuple[int, int]) -> Array:
    """The tile whose elements are `entry(index)`, where `entry` makes a row, a column or a scalar."""
    if index is None:
        return jnp.broadcast_to(entry(0), shape)
    start = jnp.broadcast_to(entry(0), shape)
    return lax.fori_loop(
        1, entries, lambda r, tile: jnp.where(index == r, jnp.broadcast_to(entry(r), shape), tile), start
    )


def sum_entries(tile: Array, index: Array | None, entries: int, axis: int) -> Array:
    """The transpose of `pick`: sums over an axis of the tile for each entry, `(entries, the other axis)`."""
    if axis == 1:
        tile = tile.T
        index = None if index is None else index.T
    if index is None:
        return jnp.sum(tile, axis=0, keepdims=True)
    shape = (entries, tile.shape[1])
    numbers = lax.broadcasted_iota(jnp.int32, shape, 0)

    def add(r: Array, sums: Array) -> Array:
        own = jnp.sum(jnp.where(index == r, tile, 0.0), axis=0, keepdims=True)
        return jnp.where(numbers == r, jnp.broadcast_to(own, shape), sums)

    return lax.fori_loop(0, entries, add, jnp.zeros(shape, tile.dtype))


def _only(allowed: Array | None, x: Array, otherwise: float) -> Array:
    return x if allowed is None else jnp.where(allowed, x, otherwise)


def _finite(peak: Array) -> Array:
    """0 for -inf, so that exp(-inf - it) is 0 and not NaN."""
    return jnp.where(peak == -jnp.inf, 0.0, peak)
