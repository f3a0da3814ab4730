"""What each query may see, said in the way that is cheapest to compute."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool

from jax_attn.functional.block_mask import MaskMod, and_masks, create_block_mask, create_mask
from jax_attn.functional.mask_mods import causal, sliding_window
from jax_attn.functional.mods import arguments_read, check_mask_mod
from jax_attn.nn.positions.attention_positions import Places

Shape = tuple[int, int, int, int]  # (B, N, T, S)
FEW_QUERIES = (
    64  # one row of blocks or less: a mask of all pairs is small, and the same time at every position
)


def what_is_seen(
    scores: Shape,
    places: Places,
    *,
    is_causal: bool,
    window: int | None,
    mask_mod: MaskMod | None,
    by_position: bool,
    in_blocks: bool,
) -> dict[str, Any]:
    """The arguments of `dot_product_attention` that say what a causal mask, a window and a mask mod allow.

    Args:
        scores: the shape of the scores.
        places: where queries and keys stand; the mask mod is asked about positions.
        is_causal: whether a query sees nothing after it.
        window: whether it sees `window - 1` tokens before it (and after it) only.
        mask_mod: what else decides.
        by_position: whether `is_causal` and `window` go by position, as with a cache; else by order.
        in_blocks: whether blocks are to be skipped, or a mask of all pairs is cheaper.
    """
    of_order = [
        *([causal] if is_causal else []),
        *([sliding_window(window, is_causal)] if window is not None else []),
    ]
    of_positions = [*(of_order if by_position else []), *([mask_mod] if mask_mod is not None else [])]
    mods = [at_positions(mod, places) for mod in of_positions]
    if by_position:
        mods.append(lambda b, h, q_idx, kv_idx: places.of_key(b, kv_idx) >= 0)
    plain = {"is_causal": is_causal and not by_position, "local_window_size": None}
    if window is not None and not by_position:
        plain["local_window_size"] = (window - 1, 0 if is_causal else window - 1)
    if not mods:
        return plain
    if not in_blocks or scores[2] <= FEW_QUERIES:
        return {**plain, "mask": create_mask(and_masks(*mods), *_axes_read(and_masks(*mods), scores))}
    every = and_masks(*mods, *([] if by_position else of_order))
    return {"block_mask": create_block_mask(every, *_axes_read(every, scores))}


def at_positions(mask_mod: MaskMod, places: Places) -> MaskMod:
    """The mask mod, asked about the positions that stand at two indices."""

    def at_indices(b: Array, h: Array, q_idx: Array, kv_idx: Array) -> Array:
        return mask_mod(b, h, places.of_query(b, q_idx), places.of_key(b, kv_idx))

    return at_indices


def _axes_read(mask_mod: MaskMod, scores: Shape) -> tuple[int | None, int | None, int, int]:
    """The shape of the scores, with None for batch or heads where the mask is the same for all."""
    read = arguments_read(check_mask_mod(mask_mod))
    batch, heads, queries, keys = scores
    return batch if 0 in read else None, heads if 1 in read else None, queries, keys


def four_axes(mask: Bool[Array, "..."], shape: Shape) -> Bool[Array, "b n t s"]:
    """`(b, s)`, `(b, t, s)` or `(b, n, t, s)` with any axis 1, as four axes that broadcast to `shape`."""
    if mask.dtype != bool:
        raise ValueError(f"mask must be a boolean array, True = attend, got {mask.dtype}")
    b, _, t, s = shape
    fits = {2: (b, s), 3: (b, t, s), 4: shape}
    full = fits.get(mask.ndim)
    if full is None or any(size not in (1, whole) for size, whole in zip(mask.shape, full, strict=True)):
        shapes = ", ".join(map(str, fits.values()))
        raise ValueError(f"mask must have one of the shapes {shapes}, or 1 for any axis, got {mask.shape}")
    return {2: mask[:, None, None], 3: mask[:, None], 4: mask}[mask.ndim]


def real_tokens(mask: Bool[Array, "..."] | None, batch: int, tokens: int) -> Bool[Array, "b t"] | None:
    """Which of the tokens that go into a cache are no padding; None where all are real."""
    if mask is None:
        return None
    return jnp.broadcast_to(four_axes(mask, (batch, 1, 1, tokens))[:, 0, 0], (batch, tokens))


def both(first: Array | None, second: Array | None) -> Array | None:
    """What two masks allow, where None allows everything."""
    return first if second is None else second if first is None else jnp.logical_and(first, second)
