"""Scores of all tokens, from the table that embeds them."""

from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.functional.checks import checked, require_cap, require_last_dim, require_positive
from jax_attn.functional.logical_axes import LogicalAxes, constrain
from jax_attn.functional.sharding import for_product
from jax_attn.functional.softcap import soft_cap


class TiedHead(nnx.Module):
    """`softcap(scale · x Eᵀ + b)`, with the table `E` of the embeddings, which the head is called with.

    The head does not own it. So the table has one owner, and gets the gradients of both uses::

        logits = head(hidden, embeddings.token.embedding[...])

    Parameters: with `bias`, `bias` `(vocab_size,)`, initially 0.

    Args:
        vocab_size: number of tokens.
        bias: whether one is added (BERT).
        softcap: bound of the logits, `softcap * tanh(logits / softcap)` (Gemma 2); None is none.
        scale: factor of the products with the table (T5).
        rngs: taken as every module takes them; nothing is drawn.
        dtype: dtype to compute in; None is the common dtype of input, table and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: `vocab_size` is not positive, `softcap` is not above 0, or the table is not `(vocab_size, d)` or
            the input not `(t, d)` or `(b, t, d)`.

    Source: Press and Wolf (arXiv 1608.05859); Inan et al. (arXiv 1611.01462).
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "bias": ("vocab",),
    }

    @checked
    def __init__(
        self,
        vocab_size: int,
        bias: bool = False,
        softcap: float | None = None,
        scale: float = 1.0,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_positive("vocab_size", vocab_size)
        if softcap is not None:
            require_cap("softcap", softcap)
        self.vocab_size, self.softcap, self.scale = vocab_size, softcap, scale
        self.bias = nnx.Param(jnp.zeros(vocab_size, param_dtype)) if bias else None
        self.dtype = dtype

    def __call__(self, x: Float[Array, "*b t d"], table: Float[Array, "v d"]) -> Float[Array, "*b t v"]:
        """`(t, d)` or `(b, t, d)` and the table `(vocab_size, d)` to logits `(..., t, vocab_size)`."""
        if table.ndim != 2 or table.shape[0] != self.vocab_size:
            raise ValueError(f"table must have shape ({self.vocab_size}, d), got {table.shape}")
        require_last_dim("x", x.shape, table.shape[1])
        bias = None if self.bias is None else self.bias[...]
        x, table, bias = promote_dtype((x, table, bias), dtype=self.dtype)
        x = x if self.scale == 1.0 else x * self.scale
        kernel, bias, out_sharding = for_product(x, table.T, bias)
        logits = jnp.einsum("...td,vd->...tv", x, kernel.T, out_sharding=out_sharding)
        logits = constrain(logits, "batch", "length", "vocab")
        return soft_cap(logits if bias is None else logits + bias, self.softcap)
