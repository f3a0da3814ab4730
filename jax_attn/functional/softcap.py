"""Scores that cannot grow beyond a bound."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_attn.functional.activations import in_float32


def soft_cap(x: Float[Array, "*s"], cap: float | None) -> Float[Array, "*s"]:
    """`cap · tanh(x / cap)`, which stays within ±cap; None leaves `x` as it is. In float32 for 16 bits.

    Source: Gemma 2 (arXiv 2408.00118), section 2.
    """
    return x if cap is None else in_float32(lambda x: cap * jnp.tanh(x / cap))(x)
