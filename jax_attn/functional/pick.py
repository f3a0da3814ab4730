"""Which implementation suits a call."""

from jaxtyping import Array

# Below this many scores the whole matrix stays in the cache, and two products beat any number of tiles.
FEW_SCORES = 2**20


def prefers_blockwise(query: Array, key: Array, value: Array) -> bool:
    """Whether a call of this size is better computed in tiles than over the whole matrix of scores."""
    batch, queries, heads, _ = query.shape
    return batch * heads * queries * key.shape[1] > FEW_SCORES
