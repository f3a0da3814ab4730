"""The attention that models are built from: many heads, on one sequence or across two."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jax_attn.functional.attention import dot_product_attention
from jax_attn.functional.checks import require_divisible, require_last_dim
from jax_attn.nn.primitives import Dropout, Linear


class MultiHeadAttention(nnx.Module):
    """Multi-head attention, in which query heads may share key/value heads.

    `concat(head_1 .. head_N) W_out`, `head_i = softmax(Q_i K_jᵀ / sqrt(head_dim)) V_j`, with
    `j = i // (num_heads / num_kv_heads)`. `Q` comes from `x`, `K` and `V` from `context`, or from `x` too
    where there is none. Dropout acts on the attention weights.

    How `num_heads=4` query heads share their keys and values::

        num_kv_heads     4 (or None)            2                    1
                       multi-head: MHA    grouped-query: GQA   multi-query: MQA

        values         [v] [v] [v] [v]       [ v ]   [ v ]        [     v     ]
        keys           [k] [k] [k] [k]       [ k ]   [ k ]        [     k     ]
                        |   |   |   |         / \\     / \\         /   |   |   \\
        queries        [q] [q] [q] [q]      [q] [q] [q] [q]     [q] [q] [q] [q]

    Parameters (with `head_dim = embed_dim / num_heads`): `q_proj` and `out_proj` kernels
    `(embed_dim, embed_dim)`; `k_proj` and `v_proj` kernels `(embed_dim, num_kv_heads * head_dim)`; a bias
    each with `bias`.

    Args:
        embed_dim: width of input and output.
        num_heads: number of query heads; it divides `embed_dim`.
        num_kv_heads: number of key/value heads; it divides `num_heads`, and None is one for each query head.
        dropout: probability of dropping an attention weight while training.
        bias: whether the four projections have a bias.
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: `num_heads` does not divide `embed_dim`, `num_kv_heads` does not divide `num_heads`, an
            input has another width or rank, or the mask is not boolean or does not fit.

    Source: Vaswani et al. (arXiv 1706.03762), section 3.2.2; MQA: Shazeer (arXiv 1911.02150); GQA: Ainslie
    et al. (arXiv 2305.13245).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_kv_heads: int | None = None,
        dropout: float = 0.0,
        bias: bool = True,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = require_divisible("embed_dim", embed_dim, "num_heads", num_heads)
        require_divisible("num_heads", num_heads, "num_kv_heads", num_kv_heads)

        def linear(width: int) -> Linear:
            return Linear(embed_dim, width, bias=bias, rngs=rngs, dtype=dtype, param_dtype=param_dtype)

        self.q_proj = linear(embed_dim)
        self.k_proj = linear(num_kv_heads * self.head_dim)
        self.v_proj = linear(num_kv_heads * self.head_dim)
        self.out_proj = linear(embed_dim)
        self.dropout = Dropout(dropout, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "*b t d"],
        context: Float[Array, "*b s d"] | None = None,
        mask: Bool[Array, "..."] | None = None,
        is_causal: bool = False,
    ) -> Float[Array, "*b t d"]:
        """Attend from `x` to `context`, or to `x` itself.

        Args:
            x: `(b, t, embed_dim)`, or `(t, embed_dim)`, and then nothing below has a batch axis either.
            context: `(b, s, embed_dim)`; None is self-attention, with `s = t`.
            mask: True = attend. `(b, s)` tells which keys may be seen; `(b, t, s)` and `(b, num_heads, t, s)`
                which query may see which. Any axis may be 1.
            is_causal: a query sees the keys up to its own position only, as well as the mask's.

        Returns:
            `(b, t, embed_dim)`; where a query may attend to nothing, the bias of `out_proj`.
        """
        require_last_dim("x", x.shape, self.embed_dim)
        if context is not None:
            require_last_dim("context", context.shape, self.embed_dim, ndims=(x.ndim,))
        if x.ndim == 2:  # a batch of one
            context, mask = (None if given is None else given[None] for given in (context, mask))
            return self(x[None], context, mask, is_causal)[0]

        context = x if context is None else context
        if context.shape[0] != x.shape[0]:
            raise ValueError(f"context must have the batch size of x, {x.shape[0]}, got {context.shape[0]}")
        if mask is not None:
            mask = four_axes(mask, (x.shape[0], self.num_heads, x.shape[1], context.shape[1]))

        rate = 0.0 if self.dropout.deterministic else self.dropout.rate
        heads = dot_product_attention(
            self.split_heads(self.q_proj(x)),
            self.split_heads(self.k_proj(context)),
            self.split_heads(self.v_proj(context)),
            mask=mask,
            is_causal=is_causal,
            dropout_rate=rate,
            dropout_key=self.dropout.rngs() if rate > 0 else None,
        )
        return self.out_proj(heads.reshape(x.shape))

    def split_heads(self, projected: Float[Array, "b t nh"]) -> Float[Array, "b t n h"]:
        """Neighbouring features make up a head."""
        heads = projected.shape[-1] // self.head_dim
        return projected.reshape(*projected.shape[:2], heads, self.head_dim)


def four_axes(mask: Bool[Array, "..."], shape: tuple[int, int, int, int]) -> Bool[Array, "b n t s"]:
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
