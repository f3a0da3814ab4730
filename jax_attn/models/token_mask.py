"""Which tokens are no padding, as tokenizers say it."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Integer


def token_mask(attention_mask: Bool[Array, "..."] | Integer[Array, "..."], shape: tuple[int, ...]) -> Array:
    """A tokenizer's mask of ones and zeros, or of booleans, as booleans that tell which keys may be seen.

    Raises:
        ValueError: it is neither boolean nor of integers, or not of the shape of the ids.
    """
    if attention_mask.dtype != bool and not jnp.issubdtype(attention_mask.dtype, jnp.integer):
        raise ValueError(f"attention_mask must be boolean or integers 0 and 1, got {attention_mask.dtype}")
    if attention_mask.shape != shape:
        raise ValueError(
            f"attention_mask must have the shape of input_ids, {shape}, got {attention_mask.shape}"
        )
    return attention_mask != 0
