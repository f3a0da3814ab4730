"""Attention to a fixed number of mixtures of the keys: the length is projected, too."""

from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jax_attn.functional.checks import (
    checked,
    require_at_most,
    require_boolean_mask,
    require_context,
    require_divisible,
    require_last_dim,
    require_positive,
)
from jax_attn.functional.dtypes import accumulator
from jax_attn.functional.logical_axes import LogicalAxes
from jax_attn.functional.softmax import masked_softmax
from jax_attn.nn.attention.weights import keep_weights
from jax_attn.nn.primitives import Dropout, Linear

SHARING = ("none", "heads", "keys and values")


class LinformerAttention(nnx.Module):
    """Multi-head attention `softmax(Q (Eᵀ K)ᵀ / sqrt(head_dim)) (Fᵀ V)`, with learned `E` and `F` over positions.

    Their columns mix the keys and the values of the whole sequence into `projected_length` of each, so that time
    and memory grow with the length and not with its square. A shorter sequence uses their first rows. Keys and
    values that are masked are 0 before they are mixed. There is no causal form: each mixture holds every
    position.

    Parameters: `q_proj`, `k_proj`, `v_proj` and `out_proj` kernels `(embed_dim, embed_dim)`, and a bias each
    with `bias`; `key_lengths` and `value_lengths` `(max_length, projected_length)`, with an axis of `num_heads`
    before them where they share nothing. Where keys and values share, there is no `value_lengths`.

    Args:
        embed_dim: width of input and output.
        num_heads: number of heads; it divides `embed_dim`.
        max_length: the most keys that it takes.
        projected_length: how many mixtures of the keys the queries attend to.
        sharing: what shares a projection of the length: "none" (each head has its own two), "heads" (one for
            keys and one for values), "keys and values" (one in all). To share it among layers, let them
            hold the same parameter.
        dropout: probability of dropping an attention weight while training.
        bias: whether the four projections have a bias.
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: `num_heads` does not divide `embed_dim`, a length is below 1, `sharing` is unknown, an
            input has another width or rank or is too long, or the mask is not boolean or does not fit.

    Source: Wang et al. (arXiv 2006.04768).
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "q_proj": ("embed", "heads"),
        "k_proj": ("embed", "heads"),
        "v_proj": ("embed", "heads"),
        "out_proj": ("heads", "embed"),
        "key_lengths": ("heads", "positions", "rank"),
        "value_lengths": ("heads", "positions", "rank"),
    }

    @checked
    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        max_length: int,
        projected_length: int,
        sharing: str = "heads",
        dropout: float = 0.0,
        bias: bool = True,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = require_divisible("embed_dim", embed_dim, "num_heads", num_heads)
        self.max_length = max_length
        require_positive("max_length", max_length)
        require_positive("projected_length", projected_length)
        if sharing not in SHARING:
            raise ValueError(f"sharing must be one of {', '.join(map(repr, SHARING))}, got {sharing!r}")

        def linear() -> Linear:
            return Linear(embed_dim, embed_dim, bias=bias, rngs=rngs, dtype=dtype, param_dtype=param_dtype)

        def lengths() -> nnx.Param:
            heads = (num_heads,) if sharing == "none" else ()
            drawn = rngs.params.normal((*heads, max_length, projected_length), param_dtype)
            return nnx.Param(drawn * jnp.asarray(projected_length**-0.5, param_dtype))

        self.q_proj, self.k_proj, self.v_proj, self.out_proj = linear(), linear(), linear(), linear()
        self.key_lengths = lengths()
        self.value_lengths = None if sharing == "keys and values" else lengths()
        self.dropout = Dropout(dropout, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "*b t d"],
        context: Float[Array, "*b s d"] | None = None,
        mask: Bool[Array, "*b s"] | None = None,
        *,
        return_weights: bool = False,
    ) -> Array | tuple[Array, Array]:
        """Attend from `x` to `context`, or to `x` itself.

        Args:
            x: `(b, t, embed_dim)`, or `(t, embed_dim)`, and then nothing below has a batch axis either.
            context: `(b, s, embed_dim)`; None is self-attention, with `s = t`.
            mask: True = attend, `(b, s)`: which keys may be seen.
            return_weights: whether to return the attention weights too.

        Returns:
            `(b, t, embed_dim)`; where nothing may be attended to, the bias of `out_proj`. With `return_weights`
            `(output, weights)`, the weights `(b, num_heads, t, projected_length)`, dropout included.
        """
        require_last_dim("x", x.shape, self.embed_dim)
        if context is not None:
            require_context(context.shape, x.shape, self.embed_dim)
        context = x if context is None else context
        require_at_most("the number of keys", context.shape[-2], "max_length", self.max_length)
        if mask is not None:
            require_boolean_mask("mask", mask, [context.shape[:-1]])

        q, k, v = (
            self._heads(self.q_proj(x)),
            self._heads(self.k_proj(context)),
            self._heads(self.v_proj(context)),
        )
        if mask is not None:
            k, v = (jnp.where(mask[..., None, None], each, 0) for each in (k, v))
        k = self._mixed(k, self.key_lengths)
        v = self._mixed(v, self.key_lengths if self.value_lengths is None else self.value_lengths)
        scores = jnp.einsum("...tnh,...snh->...nts", q, k, preferred_element_type=accumulator(q.dtype))
        weights = self.dropout(masked_softmax(scores * self.head_dim**-0.5)).astype(v.dtype)
        heads = jnp.einsum("...nts,...snh->...tnh", weights, v)
        output = self.out_proj(heads.reshape(x.shape))
        keep_weights(self, weights)
        return (output, weights) if return_weights else output

    def _mixed(self, heads: Float[Array, "*b s n h"], lengths: nnx.Param) -> Float[Array, "*b k n h"]:
        """Each column of `lengths` mixes all positions into one."""
        rows = lengths[..., : heads.shape[-3], :].astype(heads.dtype)
        return jnp.einsum("...snh,nsk->...knh" if rows.ndim == 3 else "...snh,sk->...knh", heads, rows)

    def _heads(self, projected: Float[Array, "*b t nh"]) -> Float[Array, "*b t n h"]:
        """Neighbouring features make up a head."""
        return projected.reshape(*projected.shape[:-1], self.num_heads, self.head_dim)
