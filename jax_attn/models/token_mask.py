"""Which tokens are no padding, as tokenizers say it, and where they stand in a packed row."""

import jax
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


def segment_positions(segment_ids: Integer[Array, "*b t"], shape: tuple[int, ...]) -> Array:
    """Where each token stands in its segment, from 0: tokens of one segment stand behind one another.

    Raises:
        ValueError: the segments are not of the shape of the ids.
    """
    if segment_ids.shape != shape:
        raise ValueError(f"segment_ids must have the shape of input_ids, {shape}, got {segment_ids.shape}")
    place = jnp.arange(shape[-1])
    begins = jnp.concatenate(
        [jnp.ones((*shape[:-1], 1), bool), segment_ids[..., 1:] != segment_ids[..., :-1]], axis=-1
    )
    return place - jax.lax.cummax(jnp.where(begins, place, 0), axis=len(shape) - 1)
