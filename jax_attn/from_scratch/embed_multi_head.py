"""Multi-head attention of an encoder: no causal mask of its own, but takes one that says what is padding."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jax_attn.functional.checks import require_boolean_mask, require_divisible, require_last_dim
from jax_attn.functional.softmax import masked_softmax
from jax_attn.nn.primitives import Linear


class EmbedMultiHeadAttention(nnx.Module):
    """Multi-head self-attention of one width throughout, with biases and an optional mask.

    `[head_0, head_1, ...] out` with `head_i = softmax(Q_i K_iᵀ / sqrt(head_dim) + M) V_i`, where `Q_i`,
    `K_i`, `V_i` are columns `i * head_dim` to `(i + 1) * head_dim` of `query(x)`, `key(x)`, `value(x)`, and
    `M` is -inf where `attention_mask` is False. A token that may attend to nothing gets context 0, so that
    `out` gives its bias there, and passes no gradient.

    Parameters: `query`, `key`, `value`, `out` kernels `(embed_dim, embed_dim)` and biases `(embed_dim,)`.

    Args:
        embed_dim: width of the input and of the output.
        num_heads: number of heads; `head_dim = embed_dim / num_heads`.
        rngs: source of the initial weights.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: `num_heads` does not divide `embed_dim`, the input is not `(t, embed_dim)` or
            `(b, t, embed_dim)`, or the mask is not boolean or has another shape than those below.

    Source: "Attention Is All You Need" (arXiv 1706.03762), section 3.2.2.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = require_divisible("embed_dim", embed_dim, "num_heads", num_heads)
        self.query = Linear(embed_dim, embed_dim, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.key = Linear(embed_dim, embed_dim, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.value = Linear(embed_dim, embed_dim, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.out = Linear(embed_dim, embed_dim, rngs=rngs, dtype=dtype, param_dtype=param_dtype)

    def __call__(
        self, x: Float[Array, "*b t embed_dim"], attention_mask: Bool[Array, "..."] | None = None
    ) -> Float[Array, "*b t embed_dim"]:
        """`(t, embed_dim)` or `(b, t, embed_dim)` to the same.

        `attention_mask`, True = attend: `(b, t)` says which tokens may be attended to, `(b, t, t)` says it
        for each token apart. Without a batch axis `(t,)` and `(t, t)`.
        """
        require_last_dim("x", x.shape, self.embed_dim)
        *batch, tokens, _ = x.shape
        if attention_mask is not None:
            require_boolean_mask(
                "attention_mask", attention_mask, [(*batch, tokens), (*batch, tokens, tokens)]
            )
            if attention_mask.ndim == x.ndim - 1:  # one row for all queries
                attention_mask = attention_mask[..., None, :]
            attention_mask = attention_mask[..., None, :, :]  # the same for all heads

        queries, keys, values = (self.split_heads(a) for a in (self.query(x), self.key(x), self.value(x)))
        scores = queries @ keys.mT / self.head_dim**0.5
        context = masked_softmax(scores, mask=attention_mask) @ values
        return self.out(self.merge_heads(context))

    def split_heads(self, a: Float[Array, "*b t embed_dim"]) -> Float[Array, "*b n t h"]:
        """`(*b, t, embed_dim)` to `(*b, num_heads, t, head_dim)`."""
        return a.reshape(*a.shape[:-1], self.num_heads, self.head_dim).swapaxes(-3, -2)

    def merge_heads(self, a: Float[Array, "*b n t h"]) -> Float[Array, "*b t embed_dim"]:
        """`(*b, num_heads, t, head_dim)` to `(*b, t, embed_dim)`."""
        a = a.swapaxes(-3, -2)
        return a.reshape(*a.shape[:-2], self.embed_dim)
