"""Attention from a few learned queries to a sequence: as many vectors as there are queries, whatever its length."""

from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jax_attn.functional.checks import (
    checked,
    require_boolean_mask,
    require_divisible,
    require_last_dim,
    require_positive,
)
from jax_attn.functional.dtypes import accumulator
from jax_attn.functional.logical_axes import LogicalAxes
from jax_attn.functional.softmax import masked_softmax
from jax_attn.nn.attention.weights import keep_weights
from jax_attn.nn.primitives import Dropout, Linear


class AttentionPooling(nnx.Module):
    """Multi-head attention whose queries are parameters: `softmax(Q Kᵀ / sqrt(head_dim)) V W_out`.

    One query gives one vector for a sequence, as in SigLIP's head; several give a set of vectors, as the seeds
    of the Set Transformer. With `residual`, the queries as they stand before `q_proj` are added, as in its
    `PMA`, `LayerNorm(h + FeedForward(h))`, `h = LayerNorm(queries + attention)`, whose norms and feed-forward
    are other modules.

    Parameters: `queries` `(num_queries, embed_dim)`; `q_proj`, `k_proj`, `v_proj` and `out_proj` kernels
    `(embed_dim, embed_dim)`, and a bias each with `bias`.

    Args:
        embed_dim: width of input and output.
        num_heads: number of heads; it divides `embed_dim`.
        num_queries: number of learned queries.
        dropout: probability of dropping an attention weight while training.
        bias: whether the four projections have a bias.
        residual: whether the queries are added to the output.
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: `num_heads` does not divide `embed_dim`, `num_queries` is below 1, the input has another
            width or rank, or the mask is not boolean or does not fit.

    Source: Lee et al. (arXiv 1810.00825), section 3.2; Zhai et al. (arXiv 2303.15343).
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "queries": ("positions", "embed"),
        "q_proj": ("embed", "heads"),
        "k_proj": ("embed", "heads"),
        "v_proj": ("embed", "heads"),
        "out_proj": ("heads", "embed"),
    }

    @checked
    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_queries: int = 1,
        dropout: float = 0.0,
        bias: bool = True,
        residual: bool = False,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_positive("num_queries", num_queries)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = require_divisible("embed_dim", embed_dim, "num_heads", num_heads)
        self.residual = residual
        self.dtype = dtype

        def linear() -> Linear:
            return Linear(embed_dim, embed_dim, bias=bias, rngs=rngs, dtype=dtype, param_dtype=param_dtype)

        self.queries = nnx.Param(rngs.params.normal((num_queries, embed_dim), param_dtype))
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = linear(), linear(), linear(), linear()
        self.dropout = Dropout(dropout, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "*b s d"],
        mask: Bool[Array, "*b s"] | None = None,
        *,
        return_weights: bool = False,
    ) -> Array | tuple[Array, Array]:
        """Attend from the queries to the tokens of `x`.

        Args:
            x: `(b, s, embed_dim)`, or `(s, embed_dim)`, and then the mask has no batch axis either.
            mask: True = attend, `(b, s)`: which tokens may be seen.
            return_weights: whether to return the attention weights too.

        Returns:
            `(b, num_queries, embed_dim)`, or `(num_queries, embed_dim)`; of a sequence of which nothing may be
            seen, the bias of `out_proj` (and the queries). With `return_weights` `(output, weights)`, the
            weights `(b, num_heads, num_queries, s)`, dropout included.
        """
        require_last_dim("x", x.shape, self.embed_dim)
        if mask is not None:
            require_boolean_mask("mask", mask, [x.shape[:-1]])
        queries = self.queries[...]
        if self.dtype is None:
            queries = queries.astype(jnp.promote_types(x.dtype, queries.dtype))
        q = self._heads(self.q_proj(queries))
        k, v = self._heads(self.k_proj(x)), self._heads(self.v_proj(x))

        scores = jnp.einsum("tnh,...snh->...nts", q, k, preferred_element_type=accumulator(q.dtype))
        allowed = None if mask is None else mask[..., None, None, :]
        weights = self.dropout(masked_softmax(scores * self.head_dim**-0.5, allowed)).astype(v.dtype)
        if mask is not None:
            v = jnp.where(mask[..., None, None], v, 0)  # what nobody sees may hold anything
        heads = jnp.einsum("...nts,...snh->...tnh", weights, v)
        output = self.out_proj(heads.reshape(*heads.shape[:-2], self.embed_dim))
        if self.residual:
            output = output + queries.astype(output.dtype)
        keep_weights(self, weights)
        return (output, weights) if return_weights else output

    def _heads(self, projected: Float[Array, "*b t nh"]) -> Float[Array, "*b t n h"]:
        """Neighbouring features make up a head."""
        return projected.reshape(*projected.shape[:-1], self.num_heads, self.head_dim)
