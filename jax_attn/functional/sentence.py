"""From the vectors of a sentence's tokens to one vector, and how alike two sentences are."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jax_attn.functional.dtypes import accumulator


def mean_pooling(hidden: Float[Array, "*b t d"], attention_mask: Bool[Array, "*b t"]) -> Float[Array, "*b d"]:
    """The mean of the tokens that the mask keeps, `sum_t mask[t] x[t] / sum_t mask[t]`, and 0 of none.

    In float32 for 16 bits.

    Args:
        hidden: `(b, t, d)` or `(t, d)`, a vector for each token.
        attention_mask: `(b, t)` or `(t,)`, True = a token, False = padding.

    Raises:
        ValueError: the mask is not boolean or has another shape.

    Source: Reimers and Gurevych (arXiv 1908.10084), section 3.
    """
    if attention_mask.dtype != bool or attention_mask.shape != hidden.shape[:-1]:
        raise ValueError(
            f"attention_mask must be a boolean array of shape {hidden.shape[:-1]}, "
            f"got {attention_mask.dtype} {attention_mask.shape}"
        )
    # A padding token's vector may be anything, NaN too, so it is replaced and not multiplied by 0.
    wide = hidden.astype(accumulator(hidden.dtype))
    total = jnp.where(attention_mask[..., None], wide, 0).sum(axis=-2)
    count = attention_mask.sum(axis=-1, keepdims=True)
    return (total / jnp.maximum(count, 1).astype(wide.dtype)).astype(hidden.dtype)


def cosine_similarity(a: Float[Array, "n d"], b: Float[Array, "m d"]) -> Float[Array, "n m"]:
    """`a_i · b_j / (|a_i| |b_j|)` for every pair; 0 with a vector of zeros, and so is its gradient.

    Args:
        a: `(n, d)`.
        b: `(m, d)`.
    """
    return _unit(a) @ _unit(b).T


def _unit(x: Float[Array, "n d"]) -> Float[Array, "n d"]:
    squares = jnp.sum(x * x, axis=-1, keepdims=True)
    return x / jnp.sqrt(jnp.where(squares == 0, 1.0, squares))
