"""Attention on GPU by Triton kernels: one entry for what they serve, and the reasons why a call cannot go there.

What was run where: the kernels in interpret mode, against the oracle; lowered for CUDA without a GPU. None
has run on a GPU yet, and nothing here has been timed: they are taken by name only.
"""

from typing import Any

import jax.numpy as jnp
from jax.experimental import pallas as pl
from jaxtyping import Array, Float

from jax_attn.functional.block_mask import BlockMask
from jax_attn.functional.kernels.fused import Fused, Saved, fused_attention, why_not_hoisted
from jax_attn.functional.kernels.triton import TRITON
from jax_attn.functional.kernels.visits import Mask
from jax_attn.functional.score_mods import ScoreMod

SMALLEST, LARGEST = 16, 64  # of a tile: a matrix product needs the first, registers set the second
MAX_HEAD_DIM = 256


def why_not_triton(
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
    """Why the Triton kernels cannot serve a call, or None if they can; the arguments are `triton_attention`'s."""
    head_dim, value_dim = query.shape[3], value.shape[3]
    if isinstance(mask, BlockMask) and any(size % SMALLEST for size in mask.BLOCK_SIZE):
        return f"BLOCK_SIZE must be a multiple of {SMALLEST} on GPU, got {mask.BLOCK_SIZE}"
    if query.dtype == jnp.float64 and not interpret:
        return "the GPU kernels have no float64"
    if max(head_dim, value_dim) > MAX_HEAD_DIM and not interpret:
        return f"head dims must be at most {MAX_HEAD_DIM}, got {head_dim} and {value_dim} for values"
    return why_not_hoisted(query, key, score_mod, mask, softcap)


def triton_attention(
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
    tile: tuple[int, int] = (LARGEST, LARGEST),
) -> Fused:
    """`softmax(score_mod(softcap(query keyᵀ · scale)), where allowed) value`; gradients of all but `max_scores`.

    Args:
        residuals: they come in any case.
        interpret: run the kernels as plain JAX, on any device.
        saved: output and log-sum-exp of the same call, of which only gradients are wanted.
        tile: the size of blocks where there is no block mask.

    Raises:
        ValueError: see `why_not_triton`.
    """
    call = (query, key, value, score_mod, mask)
    if reason := why_not_triton(*call, softcap=softcap, interpret=interpret):
        raise ValueError(f"the Triton kernels cannot serve this call: {reason}")
    head_dim, value_dim = query.shape[3], value.shape[3]
    block = mask.BLOCK_SIZE if isinstance(mask, BlockMask) else tile
    # Triton wants powers of two everywhere; `size & -size` is the largest that divides a block.
    rows, columns = (min(size & -size, LARGEST) for size in block)
    padded = [_pad_last(x, max(SMALLEST, pl.next_power_of_2(x.shape[-1]))) for x in (query, key, value)]
    if saved is not None:
        saved = (_pad_last(saved[0], padded[2].shape[-1]), saved[1])
    result = fused_attention(
        TRITON,
        *padded,
        score_mod,
        mask,
        scale=head_dim**-0.5 if scale is None else scale,
        softcap=softcap,
        block=block,
        largest_tile=(rows, columns),
        interpret=interpret,
        saved=saved,
    )
    return result._replace(output=result.output[..., :value_dim])


def _pad_last(x: Array, size: int) -> Array:
    return jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((0, size - x.shape[-1]),))
