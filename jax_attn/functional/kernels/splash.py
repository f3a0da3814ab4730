"""Plain masks on TPU by splash attention, the kernel that JAX brings along.

It applies no scale, knows no batch, gives no log-sum-exp that may be differentiated, and rows that may attend
to nothing get some mean of the values: it is not asked for those here. They go to the kernels of `tpu.py`.

What was run where: in interpret mode, against the oracle; compiled for v5e and v5p without such a chip.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jaxtyping import Array, Float

LANES = 128
LARGEST_BLOCK = 512


def why_not_splash(
    query: Any,
    key: Any,
    value: Any,
    *,
    local_window_size: tuple[int, int] | None = None,
    **others: Any,
) -> str | None:
    """Why splash attention cannot serve a call, or None if it can.

    Args:
        query, key, value: `(B, T, N, H)`, `(B, S, K, H)`, `(B, S, K, Hv)`, or their shapes and dtypes.
        others: further options of the call; those that are None or False are not asked for. `is_causal`
            and `softcap` are served.
    """
    for name, x in others.items():
        served = name in ("scale", "is_causal", "softcap", "dropout_key")
        if not served and x is not None and x is not False and not (name == "dropout_rate" and x == 0):
            return f"it knows no {name}"
    if query.dtype not in (jnp.bfloat16, jnp.float32):
        return f"it takes bfloat16 and float32, not {query.dtype}"
    (queries, head_dim), (keys, value_dim) = query.shape[1::2], value.shape[1::2]
    if head_dim % LANES or value_dim != head_dim:
        return f"head dims must be equal multiples of {LANES}, got {head_dim} and {value_dim} for values"
    if queries % LANES or keys % LANES:
        return f"T and S must be multiples of {LANES}, got {queries} and {keys}"
    if local_window_size is not None and queries > keys + local_window_size[0]:
        return "the last queries see nothing through the window, and it does not give them 0"
    return None


def splash_attention(
    query: Float[Array, "B T N H"],
    key: Float[Array, "B S K H"],
    value: Float[Array, "B S K H"],
    *,
    scale: float | None = None,
    is_causal: bool = False,
    local_window_size: tuple[int, int] | None = None,
    softcap: float | None = None,
    interpret: bool = False,
) -> Float[Array, "B T N H"]:
    """Attention that is full, causal or within a window; the arguments are `dot_product_attention`'s.

    Raises:
        ValueError: see `why_not_splash`.
    """
    if reason := why_not_splash(query, key, value, local_window_size=local_window_size):
        raise ValueError(f"splash attention cannot serve this call: {reason}")
    (queries, heads, head_dim), keys = query.shape[1:], key.shape[1]
    shape = (queries, keys)
    if local_window_size is not None:
        before, after = local_window_size
        mask = masks.LocalMask(shape, (before, 0 if is_causal else after), offset=0)
    else:
        mask = masks.CausalMask(shape) if is_causal else masks.FullMask(shape)
    q_block, kv_block = (_largest_block(length) for length in shape)
    attend = kernels.make_splash_mha(
        masks.MultiHeadMask([mask] * heads),
        head_shards=1,
        q_seq_shards=1,
        block_sizes=kernels.BlockSizes(
            block_q=q_block,
            block_kv=kv_block,
            block_q_dkv=q_block,
            block_kv_dkv=kv_block,
            block_q_dq=q_block,
            block_kv_dq=kv_block,
        ),
        attn_logits_soft_cap=softcap,
        interpret=interpret,
    )
    scaled = query * jnp.asarray(head_dim**-0.5 if scale is None else scale, query.dtype)
    output = jax.vmap(attend)(*(x.swapaxes(1, 2) for x in (scaled, key, value)))
    return output.swapaxes(1, 2).astype(value.dtype)


def _largest_block(length: int) -> int:
    """The largest multiple of 128, up to 512, that divides a length."""
    return next(size for size in range(LARGEST_BLOCK, 0, -LANES) if length % size == 0)
