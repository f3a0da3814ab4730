"""Dropout of attention weights."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_attn.functional.checks import require_probability


def drop(weights: Float[Array, "*s"], rate: float, key: Array | None) -> Float[Array, "*s"]:
    """Each weight is 0 with probability `rate`, and scaled by `1 / (1 - rate)` otherwise.

    Raises:
        ValueError: see `check_dropout`.
    """
    check_dropout(rate, key)
    if rate == 0 or key is None:
        return weights
    if rate == 1:  # nothing is kept: 1 / (1 - rate) would make NaN of the gradient
        return jnp.zeros_like(weights)
    keep = jax.random.bernoulli(key, 1 - rate, weights.shape)
    return jnp.where(keep, weights / (1 - rate), 0)


def check_dropout(rate: float, key: Array | None) -> None:
    """A ValueError unless the rate is a probability and a key comes with it."""
    require_probability("dropout_rate", rate)
    if rate > 0 and key is None:
        raise ValueError(f"dropout_rate={rate} needs dropout_key, a jax.random key; got None")
