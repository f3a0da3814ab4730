"""One attention head, as a brick to build multi-head attention from."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jax_attn.functional.checks import require_boolean_mask, require_last_dim, require_positive
from jax_attn.functional.softmax import masked_softmax
from jax_attn.nn.primitives import Linear


class AttentionHead(nnx.Module):
    """One head: three projections with biases, then scaled dot-product attention.

    `softmax(Q Kᵀ / sqrt(head_dim) + M) V` with `Q = q(x)`, `K = k(x)`, `V = v(x)` and `M` -inf where `mask`
    is False. A token that may attend to nothing gets output 0 and passes no gradient.

    Parameters: `q`, `k`, `v` kernels `(embed_dim, head_dim)` and biases `(head_dim,)`.

    Args:
        embed_dim: width of the input.
        head_dim: width of the output.
        rngs: source of the initial weights.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: a width below 1, an input that is not `(t, embed_dim)` or `(b, t, embed_dim)`, or a mask
            that is not boolean or has another shape than those below.

    Source: "Natural Language Processing with Transformers", ch. 3.
    """

    def __init__(
        self,
        embed_dim: int,
        head_dim: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_positive("embed_dim", embed_dim)
        require_positive("head_dim", head_dim)
        self.embed_dim = embed_dim
        self.head_dim = head_dim
        self.q = Linear(embed_dim, head_dim, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.k = Linear(embed_dim, head_dim, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.v = Linear(embed_dim, head_dim, rngs=rngs, dtype=dtype, param_dtype=param_dtype)

    def __call__(
        self, x: Float[Array, "*b t embed_dim"], mask: Bool[Array, "..."] | None = None
    ) -> Float[Array, "*b t head_dim"]:
        """`(t, embed_dim)` or `(b, t, embed_dim)` to the same with `head_dim`.

        `mask`, True = attend: `(b, t)` says which tokens may be attended to, `(b, t, t)` says it for each
        token apart. Without a batch axis `(t,)` and `(t, t)`.
        """
        require_last_dim("x", x.shape, self.embed_dim)
        *batch, tokens, _ = x.shape
        if mask is not None:
            require_boolean_mask("mask", mask, [(*batch, tokens), (*batch, tokens, tokens)])
            if mask.ndim == x.ndim - 1:  # one row for all queries
                mask = mask[..., None, :]

        scores = self.q(x) @ self.k(x).mT / self.head_dim**0.5
        return masked_softmax(scores, mask=mask) @ self.v(x)
