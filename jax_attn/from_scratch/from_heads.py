"""Multi-head attention put together from single heads."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jax_attn.from_scratch.head import AttentionHead
from jax_attn.functional.checks import require_divisible
from jax_attn.nn.primitives import Linear


class MultiHeadAttentionFromHeads(nnx.Module):
    """A list of `AttentionHead`s over the same input, concatenated, and a linear layer over all of them.

    `output_linear([head_0(x), head_1(x), ...])`, each head `embed_dim / num_heads` wide. The heads of
    `EmbedMultiHeadAttention`, cut out of its three large matrices, compute the same.

    Parameters: `heads.i.q`, `heads.i.k`, `heads.i.v` kernels `(embed_dim, head_dim)` and biases
    `(head_dim,)`; `output_linear` kernel `(embed_dim, embed_dim)` and bias `(embed_dim,)`.

    Args:
        embed_dim: width of the input and of the output.
        num_heads: number of heads; `head_dim = embed_dim / num_heads`.
        rngs: source of the initial weights.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: `num_heads` does not divide `embed_dim`, the input is not `(t, embed_dim)` or
            `(b, t, embed_dim)`, or the mask is not one that `AttentionHead` takes.

    Source: "Natural Language Processing with Transformers", ch. 3.
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
        head_dim = require_divisible("embed_dim", embed_dim, "num_heads", num_heads)
        self.heads = nnx.List(
            AttentionHead(embed_dim, head_dim, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
            for _ in range(num_heads)
        )
        self.output_linear = Linear(embed_dim, embed_dim, rngs=rngs, dtype=dtype, param_dtype=param_dtype)

    def __call__(
        self, x: Float[Array, "*b t embed_dim"], mask: Bool[Array, "..."] | None = None
    ) -> Float[Array, "*b t embed_dim"]:
        """`(t, embed_dim)` or `(b, t, embed_dim)` to the same; `mask` as `AttentionHead` takes it."""
        return self.output_linear(jnp.concatenate([head(x, mask) for head in self.heads], axis=-1))
