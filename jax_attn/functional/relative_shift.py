"""From scores by distance to scores by pair, without looking anything up."""

from jaxtyping import Array, Float


def relative_shift(scores: Float[Array, "*n T R"]) -> Float[Array, "*n T S"]:
    """`out[t, s] = scores[t, s - t + T - 1]`: a row for each query, a column for each distance, to pairs.

    Columns are distances from query to key in ascending order, so that each row is read one column before the
    row above it: in memory that is one row of `R - 1` after another, and nothing is moved but the ends.

    Args:
        scores: `(..., T, R)` with `R = T + S - 1` distances.

    Returns:
        `(..., T, S)`.

    Source: Dai et al. (arXiv 1901.02860), appendix B.
    """
    *rest, queries, distances = scores.shape
    if queries == 1:
        return scores
    flat = scores.reshape(*rest, queries * distances)[..., queries - 1 : queries * distances - 1]
    return flat.reshape(*rest, queries, distances - 1)[..., : distances - queries + 1]
