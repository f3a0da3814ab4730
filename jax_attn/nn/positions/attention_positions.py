"""What an attention asks of its positions, and where its tokens stand."""

import dataclasses
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from jax_attn.functional.reference import over_grid
from jax_attn.functional.score_mods import ScoreMod


@dataclasses.dataclass(frozen=True)
class Places:
    """Where the queries and the keys of one call stand.

    Attributes:
        query: `(B, T)` or `(1, T)` positions; None where query `i` stands at position `i`.
        key: `(B, S)` or `(1, S)` likewise; below 0 where there is no token.
    """

    query: Int[Array, "#B T"] | None = None
    key: Int[Array, "#B S"] | None = None

    def of_query(self, b: Any, q_idx: Any) -> Any:
        """The position of a query, for a mod."""
        return _look_up(self.query, b, q_idx)

    def of_key(self, b: Any, kv_idx: Any) -> Any:
        """The position of a key, for a mod."""
        return _look_up(self.key, b, kv_idx)

    def distance(self, b: Any, q_idx: Any, kv_idx: Any) -> Any:
        """How far after the query the key stands, for a mod."""
        return self.of_key(b, kv_idx) - self.of_query(b, q_idx)

    def distances(self, queries: int, keys: int) -> Int[Array, "b T S"]:
        """All distances at once; one batch entry where they are the same for all."""
        of_query = jnp.arange(queries)[None] if self.query is None else self.query
        of_key = jnp.arange(keys)[None] if self.key is None else self.key
        return of_key[:, None, :] - of_query[:, :, None]


def _look_up(positions: Array | None, b: Any, index: Any) -> Any:
    if positions is None:
        return index
    # NumPy's arrays cannot be indexed by what is traced.
    return jnp.asarray(positions)[b if positions.shape[0] > 1 else 0, index]


class AttentionPositions:
    """What an attention may ask of the positions that it is given; each answer here is "nothing".

    A kind of position is a class that gives other answers to one or more of these; no attention has to know it.

    Attributes:
        why_no_cache: why what is computed token by token would not be what is computed at once; None where it is.
        longest_cached: of how many tokens texts may be where it is all the same.
    """

    why_no_cache: str | None = None
    longest_cached: int = 0

    def check_heads(self, num_heads: int, head_dim: int) -> None:
        """Raise ValueError where these positions do not fit heads of this number and width."""

    def rotate(self, x: Float[Array, "B T N H"], positions: Int[Array, "#B T"] | None) -> Array:
        """Queries, or keys before they are cached, changed by where they stand; None counts from 0."""
        return x

    def score_mod(self, query: Float[Array, "B T N H"], scale: float, places: Places) -> ScoreMod | None:
        """How the scores of these (rotated) queries change."""
        return None

    def values(self, weights: Float[Array, "B N T S"], places: Places) -> Float[Array, "B T N H"] | None:
        """What is added to the heads' outputs. Whoever answers has to set `needs_weights`."""
        return None

    needs_weights: bool = False


def require_attention_positions(positions: Any) -> None:
    """Raise ValueError unless an attention may ask these positions."""
    if not isinstance(positions, AttentionPositions):
        given = type(positions).__name__ if isinstance(positions, nnx.Module) else repr(positions)
        raise ValueError(f"positions must be AttentionPositions, such as RotaryPositions, got {given}")


def changed(scores: Float[Array, "B N T S"], score_mod: ScoreMod) -> Float[Array, "B N T S"]:
    """All scores after a score mod: what positions do when they are called by themselves."""
    batch, heads, queries, keys = scores.shape
    return over_grid(score_mod, batch, heads, queries, keys, scores)


def by_position(score_mod: ScoreMod, places: Places) -> ScoreMod:
    """A score mod that is asked about indices, of one that is about positions."""

    def at_indices(score: Array, b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
        return score_mod(score, b, h, places.of_query(b, q_idx), places.of_key(b, kv_idx))

    return at_indices


def token_positions(mask: Bool[Array, "*b t"], padding: int = 0) -> Int[Array, "*b t"]:
    """Count the real tokens of each sequence from 0 on, wherever the padding stands.

    Args:
        mask: True = a real token.
        padding: the position of what is none; -1 says so to positions that are added to tokens.
    """
    return jnp.where(mask, jnp.cumsum(mask, axis=-1) - 1, padding)


def require_token_positions(positions: Int[Array, "..."], shape: tuple[int, ...]) -> None:
    """Raise ValueError unless positions are integers, one for each token of an input `(t, d)` or `(b, t, d)`."""
    if not jnp.issubdtype(positions.dtype, jnp.integer):
        raise ValueError(f"positions must be integers, got {positions.dtype}")
    fits = {shape[-2:-1], shape[:-1], (1, *shape[-2:-1])[-len(shape) + 1 :]}
    if positions.shape not in fits:
        raise ValueError(
            f"positions must have shape {' or '.join(map(str, sorted(fits)))}, got {positions.shape}"
        )
