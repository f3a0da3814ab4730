"""From the vectors of a sequence's tokens to one vector.

A mask is True where a token stands; a sequence without any gives 0, and gradients of 0.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jax_attn.functional.sentence import mean_pooling

Pooling = Callable[..., Array]


def first_token(x: Float[Array, "*b t d"], mask: Bool[Array, "*b t"] | None = None) -> Float[Array, "*b d"]:
    """The vector of the first token, which is not that of index 0 where padding stands in front."""
    if mask is None:
        return x[..., 0, :]
    return _token(x, mask, jnp.argmax(mask, axis=-1))


def last_token(x: Float[Array, "*b t d"], mask: Bool[Array, "*b t"] | None = None) -> Float[Array, "*b d"]:
    """The vector of the last token, which in a causal model has seen all others."""
    if mask is None:
        return x[..., -1, :]
    return _token(x, mask, mask.shape[-1] - 1 - jnp.argmax(mask[..., ::-1], axis=-1))


def mean_of_tokens(
    x: Float[Array, "*b t d"], mask: Bool[Array, "*b t"] | None = None
) -> Float[Array, "*b d"]:
    """The mean of the tokens' vectors."""
    return mean_pooling(x, jnp.ones(x.shape[:-1], bool) if mask is None else mask)


def largest_of_tokens(
    x: Float[Array, "*b t d"], mask: Bool[Array, "*b t"] | None = None
) -> Float[Array, "*b d"]:
    """The largest value of each feature."""
    if mask is None:
        return jnp.max(x, axis=-2)
    largest = jnp.max(jnp.where(mask[..., None], x, -jnp.inf), axis=-2)
    return jnp.where(jnp.any(mask, axis=-1)[..., None], largest, 0)


def _token(x: Float[Array, "*b t d"], mask: Bool[Array, "*b t"], index: Array) -> Float[Array, "*b d"]:
    chosen = jnp.take_along_axis(x, index[..., None, None], axis=-2)[..., 0, :]
    return jnp.where(jnp.any(mask, axis=-1)[..., None], chosen, 0)


POOLINGS: dict[str, Pooling] = {
    "first": first_token,
    "last": last_token,
    "mean": mean_of_tokens,
    "max": largest_of_tokens,
}
