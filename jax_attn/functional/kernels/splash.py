"""Plain masks on TPU by splash attention, the kernel that JAX brings along: the forward pass.

It applies no scale, knows no batch, wants head widths that are multiples of 128, and gives rows that may attend to
nothing some mean of the values: it is not asked for those. Its log-sum-exp is what the backward kernels of
`mosaic.py` go on from.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jaxtyping import Array

from jax_attn.functional.block_mask import BlockMask
from jax_attn.functional.kernels.mosaic import MOSAIC
from jax_attn.functional.kernels.tile import TilePlan
from jax_attn.functional.kernels.visits import Mask, MaskTerms

LANES = 128


def why_not_splash(
    query: Any,
    key: Any,
    value: Any,
    score_mod: Any = None,
    mask: Mask = None,
    *,
    tile: tuple[int, int] = (LANES, LANES),
) -> str | None:
    """Why splash attention cannot serve a call, or None if it can.

    Args:
        query, key, value: `(B, T, N, H)`, `(B, S, K, H)`, `(B, S, K, Hv)`, or their shapes and dtypes.
        tile: what the lengths are padded to multiples of.
    """
    if score_mod is not None:
        return "it knows no score_mod"
    if isinstance(mask, BlockMask):
        return "it knows no block masks"
    terms = mask or MaskTerms()
    if any(x is not None for x in terms.data):
        return "it knows masks that come as arrays in another form only"
    if query.dtype not in (jnp.bfloat16, jnp.float32):
        return f"it takes bfloat16 and float32, not {query.dtype}"
    (queries, head_dim), (keys, value_dim) = query.shape[1::2], value.shape[1::2]
    if value_dim != head_dim:
        return f"head dims must be equal, got {head_dim} and {value_dim} for values"
    if keys % tile[1] and not (terms.is_causal and queries <= keys):
        return f"S must be a multiple of {tile[1]} unless the mask is causal, got {keys}"
    before, _ = terms.band
    if before is not None and queries > keys + before:
        return "the last queries see nothing through the window, and it does not give them 0"
    return None


class Splash:
    """See `fused.Kernels`: forward by splash attention, backward by the kernels of `mosaic.py`.

    Args:
        terms: a band; no arrays.
        cap: of the scores.
    """

    def __init__(self, terms: MaskTerms, cap: float | None = None) -> None:
        self.terms, self.cap = terms, cap

    def forward(
        self, plan: TilePlan, origin: Any, visits: Any, operands: Sequence[Array], tables: Sequence[Array]
    ) -> list[Array]:
        """Output and log-sum-exp; the latter stands for the maximum, which is not known."""
        q, k, v = operands
        heads, queries, value_dim = q.shape[1], q.shape[2], v.shape[3]
        shape = (queries, k.shape[2])
        if self.terms.local_window_size is not None:
            mask = masks.LocalMask(shape, self.terms.band, offset=0)
        else:
            mask = masks.CausalMask(shape) if self.terms.is_causal else masks.FullMask(shape)
        attend = kernels.make_splash_mha(
            masks.MultiHeadMask([mask] * heads),
            head_shards=1,
            q_seq_shards=1,
            block_sizes=kernels.BlockSizes(block_q=plan.tile[0], block_kv=plan.tile[1]),
            attn_logits_soft_cap=self.cap,
            save_residuals=True,
            interpret=plan.interpret,
        )
        wide = (
            x if x.shape[-1] % LANES == 0 else _widened(x)
            for x in (q * jnp.asarray(plan.scale, q.dtype), k, v)
        )
        output, (lse, *_) = jax.vmap(attend)(*wide)
        lse = lse.astype(jnp.promote_types(q.dtype, jnp.float32))
        return [output[..., :value_dim].astype(v.dtype), lse, lse]

    backward_queries = staticmethod(MOSAIC.backward_queries)
    backward_keys = staticmethod(MOSAIC.backward_keys)
    backward_pairs = staticmethod(MOSAIC.backward_pairs)


def _widened(x: Array) -> Array:
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, -x.shape[-1] % LANES)))
