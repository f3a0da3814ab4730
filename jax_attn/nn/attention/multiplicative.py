"""Attention scored by a product of a query and a key, without heads or projected values."""

from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jax_attn.functional.checks import checked, require_context, require_last_dim, require_positive
from jax_attn.functional.given_scores import attend_by_scores, pairs_allowed, seen_alone
from jax_attn.functional.logical_axes import LogicalAxes
from jax_attn.nn.attention.weights import keep_weights
from jax_attn.nn.primitives import Linear

SCORES = ("dot", "general")


class MultiplicativeAttention(nnx.Module):
    """`softmax(scores) context`, `scores[t, s] = x[t] · context[s]` ("dot") or `x[t]ᵀ W context[s]` ("general").

    The output is a mean of the context's own vectors. The product is not scaled. Luong's third score, `concat`,
    is `AdditiveAttention`.

    Parameters: none for "dot"; `k_proj` kernel `(context_dim, embed_dim)` for "general", the transpose of `W`.

    Args:
        embed_dim: width of the queries.
        context_dim: width of the context and of the output; None is `embed_dim`, as "dot" needs it.
        score: "dot" or "general".
        rngs: source of the initial weights.
        dtype: dtype to compute in; None is the common dtype of inputs and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: an unknown score, a size below 1, two widths with "dot", an input of another width or rank, or a
            mask that is not boolean or does not fit.

    Source: Luong et al. (arXiv 1508.04025), section 3.1.
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "k_proj": ("embed", None),
    }

    @checked
    def __init__(
        self,
        embed_dim: int,
        context_dim: int | None = None,
        score: str = "general",
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        self.embed_dim = embed_dim
        self.context_dim = embed_dim if context_dim is None else context_dim
        self.dtype = dtype
        require_positive("embed_dim", embed_dim)
        require_positive("context_dim", self.context_dim)
        if score not in SCORES:
            raise ValueError(
                f"score must be one of {', '.join(SCORES)}, got {score!r} ('concat' is AdditiveAttention)"
            )
        if score == "dot" and self.context_dim != embed_dim:
            raise ValueError(
                f"score='dot' needs one width, got embed_dim={embed_dim} and context_dim={self.context_dim}"
            )
        self.k_proj = (
            Linear(self.context_dim, embed_dim, bias=False, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
            if score == "general"
            else None
        )

    def __call__(
        self,
        x: Float[Array, "*b t d"],
        context: Float[Array, "*b s c"],
        mask: Bool[Array, "..."] | None = None,
        *,
        return_weights: bool = False,
    ) -> Array | tuple[Array, Array]:
        """Attend from `x` to `context`.

        Args:
            x: `(b, t, embed_dim)`, or `(t, embed_dim)`, and then nothing below has a batch axis either.
            context: `(b, s, context_dim)`.
            mask: True = attend, `(b, s)`: which keys may be seen, or `(b, t, s)`: by which query.
            return_weights: whether to return the attention weights too.

        Returns:
            `(b, t, context_dim)`, 0 where a query may attend to nothing; with `return_weights`
            `(output, weights)`, the weights `(b, t, s)`.
        """
        require_last_dim("x", x.shape, self.embed_dim)
        require_context(context.shape, x.shape, self.context_dim)
        allowed = pairs_allowed(mask, x.shape, context.shape)
        if self.dtype is not None:
            x, context = x.astype(self.dtype), context.astype(self.dtype)
        context = seen_alone(context, allowed)
        keys = context if self.k_proj is None else self.k_proj(context)
        scores = jnp.einsum("...td,...sd->...ts", x.astype(keys.dtype), keys)
        output, weights = attend_by_scores(scores, context, allowed)
        keep_weights(self, weights)
        return (output, weights) if return_weights else output
