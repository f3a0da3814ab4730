"""Attention on TPU: one entry for what the kernels serve, and the reasons why a call cannot go there.

What was run where: all of it in interpret mode, against the oracle; compiled by the TPU compiler for v5e, v5p and
v6e without such a chip. Nothing here has run on a TPU or been timed: `jax-attn verify kernels` does both.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_attn.functional.block_mask import BlockMask
from jax_attn.functional.kernels.fused import Fused, Saved, fused_attention, why_not_hoisted
from jax_attn.functional.kernels.mosaic import MOSAIC
from jax_attn.functional.kernels.mosaic_grid import SMEM_BYTES
from jax_attn.functional.kernels.splash import Splash, why_not_splash
from jax_attn.functional.kernels.visits import Mask, MaskTerms, bytes_of_lists, joined_size
from jax_attn.functional.score_mods import ScoreMod
from jax_attn.functional.sharding import vma

LANES = 128
TILES = ((512, 512), (512, 1024), (1024, 1024))  # the first whose lists of visits are short enough is taken
MAX_HEAD_DIM = 512


def why_not_tpu(
    query: Any,
    key: Any,
    value: Any,
    score_mod: ScoreMod | None = None,
    mask: Mask = None,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    residuals: bool = True,
    interpret: bool = False,
) -> str | None:
    """Why the TPU's kernels cannot serve a call, or None if they can; the arguments are `tpu_attention`'s."""
    if not interpret:
        if query.dtype == jnp.float64:
            return "a TPU has no float64"
        if query.dtype == jnp.float16:
            return "a TPU's matrix unit has no float16; bfloat16 is served"
        if max(query.shape[3], value.shape[3]) > MAX_HEAD_DIM:
            return f"head dims must be at most {MAX_HEAD_DIM}, got {query.shape[3]} and {value.shape[3]}"
        if isinstance(mask, BlockMask) and max(joined_size(n, LANES) for n in mask.BLOCK_SIZE) > max(
            TILES[-1]
        ):
            return f"BLOCK_SIZE must divide a multiple of {LANES} up to {TILES[-1][0]}, got {mask.BLOCK_SIZE}"
        if best_tile(query, key, mask) is None:
            return "the lists of what each tile of queries sees are too long for the chip's scalar memory"
    return why_not_hoisted(query, key, score_mod, mask, softcap)


def tpu_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K Hv"],
    score_mod: ScoreMod | None = None,
    mask: Mask = None,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    residuals: bool = True,
    interpret: bool = False,
    saved: Saved | None = None,
    tile: tuple[int, int] | None = None,
) -> Fused:
    """`softmax(score_mod(softcap(query keyᵀ · scale)), where allowed) value`; gradients of all but `max_scores`.

    Args:
        residuals: whether the maximum of the scores is wanted too; splash attention does not give it.
        interpret: run the kernels as plain JAX, on any device.
        saved: output and log-sum-exp of the same call, of which only gradients are wanted.
        tile: queries and keys that are computed at a time; None is what suits the chip.

    Raises:
        ValueError: see `why_not_tpu`.
    """
    call = (query, key, value, score_mod, mask)
    options: dict[str, Any] = {"scale": scale, "softcap": softcap, "interpret": interpret}
    if reason := why_not_tpu(*call, **options):
        raise ValueError(f"the TPU's kernels cannot serve this call: {reason}")
    tile = tile or best_tile(query, key, mask) or TILES[-1]
    # Splash attention does not say how its results vary over the axes of a shard_map.
    if saved is None and not residuals and not vma(query) and why_not_splash(*call, tile=tile) is None:
        splash = Splash(mask if isinstance(mask, MaskTerms) else MaskTerms(), softcap)
        return fused_attention(splash, *call, **options, block=tile)._replace(max_scores=None)
    return fused_attention(MOSAIC, *call, **options, block=tile, saved=saved)


def best_tile(query: Any, key: Any, mask: Mask) -> tuple[int, int] | None:
    """Queries and keys in a tile: large ones, as long as they pad little and their lists stay short."""
    lengths = (query.shape[1], key.shape[1])
    sizes = mask.BLOCK_SIZE if isinstance(mask, BlockMask) else (LANES, LANES)
    for largest in TILES:
        rows, columns = (
            joined_size(size, min(most, _even(length, most)))
            for size, most, length in zip(sizes, largest, lengths, strict=True)
        )
        tile = (rows, columns)
        if bytes_of_lists(mask, lengths, tile) <= SMEM_BYTES:
            return tile
    return None


def _even(length: int, most: int) -> int:
    """The multiple of 128 that cuts a length into as few parts as `most` does, with the least padding."""
    parts = -(-length // most)
    return -(-length // (parts * LANES)) * LANES
