"""Buckets of relative positions: each near distance has one of its own, far ones share."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int


def t5_bucket(
    relative_position: Int[Array, "..."],
    bidirectional: bool = True,
    num_buckets: int = 32,
    max_distance: int = 128,
) -> Int[Array, "..."]:
    """The bucket of a distance `kv_idx - q_idx`: exact when near, logarithmic when far.

    Half of the buckets are for each direction if `bidirectional`; otherwise the future shares bucket 0.

    Raises:
        ValueError: there are fewer than 2 buckets for a direction, or an odd number for two, or exact buckets
            reach `max_distance`.

    Source: T5 (arXiv 1910.10683), section 2.1, and its published code.
    """
    check_t5_buckets(bidirectional, num_buckets, max_distance)
    offset = 0
    if bidirectional:
        num_buckets //= 2
        offset = jnp.where(relative_position > 0, num_buckets, 0)
        distance = jnp.abs(relative_position)
    else:
        distance = jnp.maximum(-relative_position, 0)
    exact = num_buckets // 2
    far = sum((distance >= edge).astype(distance.dtype) for edge in _edges(exact, num_buckets, max_distance))
    return offset + jnp.minimum(distance, exact) + far


def _edges(exact: int, num_buckets: int, max_distance: int) -> list[int]:
    """The least distance of each bucket behind `exact`.

    They are found while tracing, in float32 as in the published code: XLA may round a logarithm otherwise.
    """
    distances = np.arange(exact, max_distance + 1)
    steps = np.log((distances / exact).astype(np.float32)) / np.float32(math.log(max_distance / exact))
    buckets = exact + (steps * np.float32(num_buckets - exact)).astype(int)
    return distances[np.searchsorted(buckets, np.arange(exact + 1, num_buckets))].tolist()


def check_t5_buckets(bidirectional: bool, num_buckets: int, max_distance: int) -> None:
    """Raise ValueError unless `t5_bucket` takes these sizes."""
    one_way = num_buckets // 2 if bidirectional else num_buckets
    if one_way < 2 or (bidirectional and num_buckets % 2):
        least = "even and at least 4 for both directions" if bidirectional else "at least 2"
        raise ValueError(f"num_buckets must be {least}, got num_buckets={num_buckets}")
    if max_distance <= one_way // 2:
        raise ValueError(
            f"max_distance must be above {one_way // 2}, the number of exact buckets, "
            f"got max_distance={max_distance}"
        )


def log_bucket(
    relative_position: Int[Array, "..."], bucket_size: int, max_position: int
) -> Int[Array, "..."]:
    """The signed bucket of a distance: itself up to `m = bucket_size / 2`, logarithmic when farther.

    `sign(d) · (m + ceil((m - 1) · log(|d| / m) / log((max_position - 1) / m)))` where `|d| > m`. A distance of
    `max_position - 1` is in bucket `bucket_size - 1`; all that are farther share `bucket_size`.

    The buckets are counted in float64 while tracing and looked up, so that their edges are the same on every
    platform.

    Args:
        relative_position: distances, of either sign.
        bucket_size: how many buckets there are to each side.
        max_position: the least distance that shares the last one.

    Raises:
        ValueError: `bucket_size` is odd or below 4, or `max_position` not above `bucket_size / 2 + 1`.

    Source: DeBERTa (arXiv 2006.03754's published code, v2: `make_log_bucket_position`), which goes on counting
        where this stops, and clips to the same in its attention.
    """
    check_log_buckets(bucket_size, max_position)
    middle = bucket_size // 2
    far = np.arange(middle + 1, max_position + 1)
    steps = np.log(far / middle) / np.log((max_position - 1) / middle) * (middle - 1)
    far = np.minimum(middle + np.ceil(steps), bucket_size)
    table = jnp.asarray(np.concatenate([np.arange(middle + 1), far]), relative_position.dtype)
    return jnp.sign(relative_position) * table[jnp.minimum(abs(relative_position), max_position)]


def check_log_buckets(
    bucket_size: int, max_position: int, names: tuple[str, str] = ("bucket_size", "max_position")
) -> None:
    """Raise ValueError unless `log_bucket` takes these sizes; `names` are those of the caller's arguments."""
    buckets, farthest = names
    if bucket_size < 4 or bucket_size % 2:
        raise ValueError(f"{buckets} must be even and at least 4, got {buckets}={bucket_size}")
    least = bucket_size // 2 + 1
    if max_position <= least:
        raise ValueError(
            f"{farthest} must be above {buckets} / 2 + 1 = {least}, got {farthest}={max_position}"
        )
