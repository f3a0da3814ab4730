"""Ready-made mask mods: `mask_mod(b, h, q_idx, kv_idx) -> bool`, True = attend.

Each takes scalars, so a pattern reads as its definition. `causal` is a mod; the others make one. Combine
them with `and_masks` and `or_masks` of `jax_attn.functional.block_mask`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jax_attn.functional.block_mask import MaskMod
from jax_attn.functional.checks import require_positive

ArrayLike = Array | np.ndarray  # NumPy stays known while tracing
LARGEST = np.iinfo(np.int32).max  # positions are int32


def causal(b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
    """A query sees itself and what came before it."""
    return q_idx >= kv_idx


def sliding_window(window: int, is_causal: bool = True) -> MaskMod:
    """A query sees itself and the `window - 1` positions before it, and as many after it if not causal.

    Source: Mistral (arXiv 2310.06825), section 2; Longformer (2004.05150) when not causal.
    """
    window = _positive("window", window)

    def mask_mod(b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
        ahead = 0 if is_causal else window - 1
        return (q_idx - kv_idx < window) & (kv_idx - q_idx <= ahead)

    return mask_mod


def prefix_lm(prefix_length: int | Int[ArrayLike, ""] | Int[ArrayLike, "B"]) -> MaskMod:
    """Everyone sees the prefix; the rest is causal.

    Args:
        prefix_length: one length for all, or one for each batch entry.

    Source: T5 (arXiv 1910.10683), section 3.2.1.
    """

    prefix_length = _within_int32(prefix_length)

    def mask_mod(b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
        return (kv_idx < _of_entry(prefix_length, b)) | (q_idx >= kv_idx)

    return mask_mod


def document(query_ids: Int[ArrayLike, "*B T"], key_ids: Int[ArrayLike, "*B S"] | None = None) -> MaskMod:
    """A query sees the keys of its own document (also called segment): for sequences packed into one row.

    Args:
        query_ids: the document of each query, `(T,)` for all batch entries or `(B, T)`.
        key_ids: the document of each key; None where keys and queries are the same tokens.
    """
    of_query, of_key = query_ids, query_ids if key_ids is None else key_ids

    def mask_mod(b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
        of = (b,) if jnp.ndim(of_query) == 2 else ()
        return jnp.asarray(of_query)[(*of, q_idx)] == jnp.asarray(of_key)[(*of, kv_idx)]

    return mask_mod


def padding(lengths: Int[ArrayLike, "B"]) -> MaskMod:
    """Batch entry `b` has `lengths[b]` keys; the rest is padding, which nobody sees."""

    def mask_mod(b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
        return kv_idx < _of_entry(lengths, b)

    return mask_mod


def dilated(window: int, dilation: int, is_causal: bool = False) -> MaskMod:
    """A window with gaps: every `dilation`-th position, `window - 1` of them on a side, and itself.

    Source: Longformer (arXiv 2004.05150), figure 2c.
    """
    window, dilation = _positive("window", window), _positive("dilation", dilation)
    reach = _within_int32(window * dilation)

    def mask_mod(b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
        offset = q_idx - kv_idx
        near = (abs(offset) < reach) & (offset % dilation == 0)
        return near & (offset >= 0) if is_causal else near

    return mask_mod


def global_and_window(window: int, global_tokens: int | Bool[ArrayLike, "T"]) -> MaskMod:
    """A window on both sides; global tokens see everything and are seen by everyone.

    Args:
        window: a query sees `window - 1` positions on each side.
        global_tokens: how many tokens at the start are global, or which ones are.

    Source: Longformer (arXiv 2004.05150), section 3.1.
    """
    window, global_tokens = _positive("window", window), _within_int32(global_tokens)

    def is_global(idx: Array) -> Array:
        return jnp.asarray(global_tokens)[idx] if jnp.ndim(global_tokens) else idx < global_tokens

    def mask_mod(b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
        return (abs(q_idx - kv_idx) < window) | is_global(q_idx) | is_global(kv_idx)

    return mask_mod


def block_diagonal(block: int) -> MaskMod:
    """The sequence is cut into blocks of `block` tokens, and a query sees its own block."""
    block = _positive("block", block)

    def mask_mod(b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
        return q_idx // block == kv_idx // block

    return mask_mod


def bigbird(
    key: Array, num_tokens: int, block: int, num_random: int = 3, num_global: int = 1, window: int = 3
) -> MaskMod:
    """Blocks of tokens attend to global blocks, to a window of blocks around them, and to random ones.

    Args:
        key: the random key that draws the random blocks.
        num_tokens: length of the sequence.
        block: tokens in a block.
        num_random: random blocks for each block of queries.
        num_global: blocks at the start that see everything and are seen by everyone.
        window: blocks in the window, the own one in the middle: an odd number.

    Source: BigBird (arXiv 2007.14062), section 2.
    """
    block = _positive("block", block)
    window, num_global = _within_int32(window), _within_int32(num_global)
    blocks = -(-num_tokens // block)
    draws = jax.random.uniform(key, (blocks, blocks))
    random = jnp.argsort(jnp.argsort(draws, axis=-1), axis=-1) < num_random

    def mask_mod(b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
        row, column = q_idx // block, kv_idx // block
        near = abs(row - column) <= window // 2
        return near | (row < num_global) | (column < num_global) | random[row, column]

    return mask_mod


def neighborhood_2d(height: int, width: int, window: int) -> MaskMod:
    """Tokens are the pixels of an image, row by row; a pixel sees the `window` x `window` square around it.

    At the border the square is shifted inwards, so that every pixel sees equally many.

    Source: Neighborhood Attention (arXiv 2204.07143), section 3.1.
    """
    window = _positive("window", window)

    def near(q: Array, kv: Array, size: int) -> Array:
        start = jnp.clip(q - window // 2, 0, max(size - window, 0))
        return (kv >= start) & (kv < start + window)

    def mask_mod(b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
        return near(q_idx // width, kv_idx // width, height) & near(q_idx % width, kv_idx % width, width)

    return mask_mod


def _of_entry(value: Any, b: Array) -> int | Int[Array, ""]:
    """The number of a batch entry, where there is one for each."""
    return jnp.asarray(value)[b].astype(jnp.int32) if jnp.ndim(value) else value


def _positive(name: str, value: int) -> int:
    require_positive(name, value)
    return _within_int32(value)


def _within_int32(value: Any) -> Any:
    """A plain integer as far as positions reach: beyond it, more makes no difference."""
    return min(value, LARGEST) if isinstance(value, int) else value
