"""Positions as a table that is learned."""

from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jax_attn.functional.checks import checked, require_at_most, require_last_dim
from jax_attn.functional.logical_axes import LogicalAxes
from jax_attn.nn.positions.attention_positions import require_token_positions
from jax_attn.nn.primitives import Embedding


class LearnedPositions(Embedding):
    """Adds a learned vector to each token, one per position: `x[t] + embedding[offset + t]`.

    RoBERTa's is `LearnedPositions(514, d, offset=2, padding_idx=1)`; OPT's has an offset of 2, too. Both are called
    with `positions=token_positions(mask, padding=-1)`.

    Parameters: `embedding` `(num_embeddings, embedding_dim)`, drawn from N(0, 1).

    Args:
        num_embeddings: rows of the table; it takes at most `num_embeddings - offset` tokens.
        embedding_dim: width of the input.
        offset: the row of position 0. The row before it is for padding.
        padding_idx: a row that starts at zero and is not trained; None is none.
        rngs: source of the initial weights.
        dtype: dtype of what is added; None is that of the table.
        param_dtype: dtype of the table.

    Raises:
        ValueError: the input is not `(t, d)` or `(b, t, d)`, or has more tokens than the table has rows for; an
            offset that leaves no row, positions that are not integers, or do not fit the input.

    Source: Devlin et al. (arXiv 1810.04805), section 3; the idea is Gehring et al.'s (arXiv 1705.03122). Offsets
        are fairseq's.
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "embedding": ("positions", "embed"),
    }

    @checked
    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        offset: int = 0,
        padding_idx: int | None = None,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        if not 0 <= offset < num_embeddings:
            raise ValueError(
                f"offset must be at least 0 and below num_embeddings={num_embeddings}, got {offset}"
            )
        super().__init__(
            num_embeddings, embedding_dim, padding_idx, rngs=rngs, dtype=dtype, param_dtype=param_dtype
        )
        self.offset = offset

    # Only the table is inherited: this is called with vectors, not with ids.
    def __call__(  # ty: ignore[lost-keyword-for-regular-parameter]
        self,
        x: Float[Array, "*b t d"],
        positions: Int[Array, "..."] | None = None,
    ) -> Float[Array, "*b t d"]:
        """`(t, d)` or `(b, t, d)` to the same shape.

        Args:
            x: the tokens.
            positions: `(t,)` or `(b, t)`, where they stand; below 0 is padding. One outside the table gives NaN.
                None counts from 0.
        """
        require_last_dim("x", x.shape, self.features)
        if positions is None:
            tokens, most = x.shape[-2], self.num_embeddings - self.offset
            name = "num_embeddings - offset" if self.offset else "num_embeddings"
            require_at_most("the number of tokens", tokens, name, most)
            return x + super().__call__(self.offset + jnp.arange(tokens))
        require_token_positions(positions, x.shape)
        return x + super().__call__(jnp.maximum(self.offset + jnp.maximum(positions, -1), 0))
