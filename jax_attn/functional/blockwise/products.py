"""One step of either pass: the products of a tile and the softmax between them.

Shapes, beside those of the house: `*lead` what is computed side by side, `r` the query heads that share a
key/value head, `q` and `s` queries and keys in a tile, `m = r q` rows of a tile. Scores between the products are
`(*lead, r, q, s)`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jax_attn.functional.terms import Differentiable, Terms, combine
from jax_attn.functional.tile import Tile


class Running(NamedTuple):
    """What is carried from one block of keys to the next, for each row."""

    peak: Float[Array, "*lead m"]
    total: Float[Array, "*lead m"]
    output: Float[Array, "*lead m Hv"]


def start(q: Float[Array, "*lead m H"], width: int) -> Running:
    """Nothing seen yet."""
    zeros = jnp.zeros(q.shape[:-1], q.dtype)
    return Running(zeros - jnp.inf, zeros, jnp.zeros((*q.shape[:-1], width), q.dtype))


def finish(running: Running) -> tuple[Array, Array, Array]:
    """Output, log-sum-exp and largest score."""
    peak, total, output = running
    output = output / jnp.where(total == 0, 1, total)[..., None]
    return output, jnp.where(total == 0, -jnp.inf, peak + jnp.log(jnp.where(total == 0, 1, total))), peak


def forward_step(
    running: Running,
    tile: Tile,
    terms: Terms,
    q: Float[Array, "*lead m H"],
    k: Float[Array, "*lead s H"],
    v: Float[Array, "*lead s Hv"],
) -> Running:
    """Look at one more block of keys: online softmax."""
    raw = _scores(q, k)
    allowed = tile.allowed(terms)
    scores = tile.modified(raw.reshape(_split(raw, tile)), terms)
    if allowed is not None:
        scores = jnp.where(allowed, scores, -jnp.inf)
        v = _seen(v, allowed)
    keep = tile.keeps(terms)
    scores = scores.reshape(raw.shape)
    new_peak = jnp.maximum(running.peak, scores.max(-1))
    base = jnp.where(new_peak == -jnp.inf, 0, new_peak)  # where nothing was allowed so far
    weights = jnp.exp(scores - base[..., None])
    kept = jnp.exp(running.peak - base)
    total = running.total * kept + weights.sum(-1)
    if terms.dropout is not None and keep is not None:
        weights = terms.dropout.drop(weights.reshape(_split(raw, tile)), keep).reshape(raw.shape)
    output = running.output * kept[..., None] + jnp.einsum("...ms,...sh->...mh", weights, v)
    return Running(new_peak, total, output)


class Rows(NamedTuple):
    """What the backward pass needs to know of queries: `delta = rowsum(o · do) - dlse`."""

    q: Float[Array, "*lead m H"]
    d_output: Float[Array, "*lead m Hv"]
    lse: Float[Array, "*lead m"]
    delta: Float[Array, "*lead m"]


def make_rows(q: Array, output: Array, d_output: Array, lse: Array, d_lse: Array) -> Rows:
    """The rows of queries, of which those that may attend to nothing are emptied: they may hold anything."""
    closed = lse == -jnp.inf
    q, d_output = (jnp.where(closed[..., None], 0, x) for x in (q, d_output))
    delta = jnp.where(closed, 0, (output * d_output).sum(-1) - d_lse)
    return Rows(q, d_output, jnp.where(closed, jnp.inf, lse), delta)  # exp(s - inf) is 0


class Step(NamedTuple):
    """What a tile has for the gradients."""

    weights: Float[Array, "*lead m s"]
    d_raw: Float[Array, "*lead m s"]
    d_scores: Float[Array, "*lead r q s"]
    d_captured: list[Array | None]


def backward_step(
    tile: Tile,
    differentiable: Differentiable,
    constant: Terms,
    rows: Rows,
    k: Float[Array, "*lead s H"],
    v: Float[Array, "*lead s Hv"],
) -> tuple[Step, Array]:
    """The gradients of a tile's scores, computed again from the log-sum-exp, and `k` without what nobody sees.

    With scores `s = mod(x)`, `x = scale q kᵀ`, weights `p = exp(s - lse)`: `ds = p (do vᵀ - delta)` and
    `dx = dmod(ds)`.
    """
    raw = _scores(rows.q, k)
    shape = _split(raw, tile)
    terms = combine(differentiable, constant)
    captured = differentiable[1]
    allowed = tile.allowed(terms)
    if allowed is not None:  # a mod's derivative at what stands behind the padding may be NaN
        raw = jnp.where(allowed, raw.reshape(shape), 0).reshape(raw.shape)

    def scores_of(raw: Array, captured: Any) -> Array:
        return tile.modified(raw.reshape(shape), combine((None, captured), constant))

    if terms.score_mod is None and terms.softcap is None:
        scores, pull = raw.reshape(shape), None
    else:
        scores, pull = jax.vjp(scores_of, raw, captured)
    if terms.bias is not None:
        scores = scores + tile.cut(terms.bias).astype(scores.dtype)
    weights = jnp.exp(scores - rows.lse.reshape(shape[:-1])[..., None])
    d_weights = jnp.einsum("...mh,...sh->...ms", rows.d_output, v).reshape(shape)
    keep = tile.keeps(terms)
    if terms.dropout is not None and keep is not None:
        dropped, d_weights = (terms.dropout.drop(x, keep) for x in (weights, d_weights))
    else:
        dropped = weights
    d_scores = weights * (d_weights - rows.delta.reshape(shape[:-1])[..., None])
    if allowed is not None:
        # 0 times what stands behind the padding may be NaN.
        dropped, d_scores = (jnp.where(allowed, x, 0) for x in (dropped, d_scores))
        k = _seen(k, allowed)
    d_raw, d_captured = (d_scores.reshape(raw.shape), captured) if pull is None else pull(d_scores)
    return Step(dropped.reshape(raw.shape), d_raw, d_scores, d_captured), k


def _scores(q: Float[Array, "*lead m H"], k: Float[Array, "*lead s H"]) -> Float[Array, "*lead m s"]:
    if (
        q.shape[-2] == 1 and q.size == q.shape[-1]
    ):  # one row alone: XLA's CPU products with batch axes are slower
        return (q.reshape(1, -1) @ k.reshape(k.shape[-2:]).T).reshape(*q.shape[:-1], k.shape[-2])
    return jnp.einsum("...mh,...sh->...ms", q, k)


def _split(raw: Array, tile: Tile) -> tuple[Any, ...]:
    """The shape of a tile's scores with an axis of their own for the heads that share keys."""
    repeats, queries = tile.place.h.shape[-3], tile.place.q_idx.shape[-2]
    return (*raw.shape[:-2], repeats, queries, raw.shape[-1])


def _seen(x: Float[Array, "*lead s H"], allowed: Bool[Array, "..."]) -> Array:
    """Keys or values, 0 where no row of the tile sees them: a weight of 0 times NaN would be NaN."""
    seen = allowed.any(axis=(-3, -2))
    return jnp.where(seen[..., None], x, 0)
