"""Ready-made mask mods: `mask_mod(b, h, q_idx, kv_idx) -> bool`, True = attend.

Each takes scalars, so a pattern reads as its definition. `causal` is a mod; the others make one. Combine
them with `and_masks` and `or_masks` of `jax_attn.functional.block_mask`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jax_attn.functional.block_mask import MaskMod
from jax_attn.functional.checks import require_positive


def causal(b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
    """A query sees itself and what came before it."""
    return q_idx >= kv_idx


def sliding_window(window: int, is_causal: bool = True) -> MaskMod:
    """A query sees itself and the `window - 1` positions before it, and as many after it if not causal.

    Source: Mistral (arXiv 2310.06825), section 2; Longformer (2004.05150) when not causal.
    """
    require_positive("window", window)

    def mask_mod(b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
        ahead = 0 if is_causal else window - 1
        return (q_idx - kv_idx < window) & (kv_idx - q_idx <= ahead)

    return mask_mod


def prefix_lm(prefix_length: int | Int[Array, ""] | Int[Array, "B"]) -> MaskMod:
    """Everyone sees the prefix; the rest is causal.

    Args:
        prefix_length: one length for all, or one for each batch entry.

    Source: T5 (arXiv 1910.10683), section 3.2.1.
    """

    def mask_mod(b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
        return (kv_idx < _of_entry(prefix_length, b)) | (q_idx >= kv_idx)

    return mask_mod


def document(query_ids: Int[Array, "*B T"], key_ids: Int[Array, "*B S"] | None = None) -> MaskMod:
    """A query sees the keys of its own document (also called segment): for sequences packed into one row.

    Args:
        query_ids: the document of each query, `(T,)` for all batch entries or `(B, T)`.
        key_ids: the document of each key; None where keys and queries are the same tokens.
    """
    of_query = jnp.asarray(query_ids)
    of_key = of_query if key_ids is None else jnp.asarray(key_ids)

    def mask_mod(b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
        of = (b,) if of_query.ndim == 2 else ()
        return of_query[(*of, q_idx)] == of_key[(*of, kv_idx)]

    return mask_mod


def padding(lengths: Int[Array, "B"]) -> MaskMod:
    """Batch entry `b` has `lengths[b]` keys; the rest is padding, which nobody sees."""
    lengths = jnp.asarray(lengths)

    def mask_mod(b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
        return kv_idx < lengths[b]

    return mask_mod


def dilated(window: int, dilation: int, is_causal: bool = False) -> MaskMod:
    """A window with gaps: every `dilation`-th position, `window - 1` of them on a side, and itself.

    Source: Longformer (arXiv 2004.05150), figure 2c.
    """
    require_positive("window", window)
    require_positive("dilation", dilation)

    def mask_mod(b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
        offset = q_idx - kv_idx
        near = (abs(offset) < window * dilation) & (offset % dilation == 0)
        return near & (offset >= 0) if is_causal else near

    return mask_mod


def global_and_window(window: int, global_tokens: int | Bool[Array, "T"]) -> MaskMod:
    """A window on both sides; global tokens see everything and are seen by everyone.

    Args:
        window: a query sees `window - 1` positions on each side.
        global_tokens: how many tokens at the start are global, or which ones are.

    Source: Longformer (arXiv 2004.05150), section 3.1.
    """
    require_positive("window", window)

    def is_global(idx: Array) -> Array:
        return idx < global_tokens if isinstance(global_tokens, int) else jnp.asarray(global_tokens)[idx]

    def mask_mod(b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
        return (abs(q_idx - kv_idx) < window) | is_global(q_idx) | is_global(kv_idx)

    return mask_mod


def block_diagonal(block: int) -> MaskMod:
    """The sequence is cut into blocks of `block` tokens, and a query sees its own block."""
    require_positive("block", block)

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
    require_positive("block", block)
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
    require_positive("window", window)

    def near(q: Array, kv: Array, size: int) -> Array:
        start = jnp.clip(q - window // 2, 0, max(size - window, 0))
        return (kv >= start) & (kv < start + window)

    def mask_mod(b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
        return near(q_idx // width, kv_idx // width, height) & near(q_idx % width, kv_idx % width, width)

    return mask_mod


def _of_entry(value: int | Array, b: Array) -> int | Array:
    return value if jnp.ndim(value) == 0 else jnp.asarray(value)[b]
