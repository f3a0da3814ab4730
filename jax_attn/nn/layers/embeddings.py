"""From token ids to vectors: what the token is, where it stands, which segment it belongs to."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Integer

from jax_attn.functional.checks import require_at_most
from jax_attn.nn.positions.learned import LearnedPositions
from jax_attn.nn.positions.sinusoidal import SinusoidalPositions
from jax_attn.nn.primitives import Dropout, Embedding, LayerNorm

POSITIONS = {"learned": LearnedPositions, "sinusoidal": SinusoidalPositions}


class Embeddings(nnx.Module):
    """`dropout(norm(token[ids] + segment[segment_ids] + position))`.

    Parameters: `token.embedding` `(vocab_size, embed_dim)`, `segment.embedding` `(num_segments,
    embed_dim)`, `position.embedding` `(max_positions, embed_dim)` where positions are learned, and `norm`.

    Args:
        vocab_size: number of token ids.
        embed_dim: width of the output.
        max_positions: the most tokens it takes.
        num_segments: number of segment ids.
        dropout: probability of dropping an output while training.
        positions: "learned" or "sinusoidal".
        eps: epsilon of the layer norm.
        padding_idx: the token of padding, whose vector starts at zero and is not trained; None is none.
        rngs: source of the initial weights and of dropout.
        dtype: dtype of the output; None is that of the parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: `positions` is not known, `padding_idx` is outside the vocabulary, the ids are not integers or
            not `(t,)` or `(b, t)`, segment ids have another shape than token ids, or there are more than
            `max_positions` tokens.

    An id outside its table gives NaN, under `jit` too, where its value cannot be looked at: it is never
    taken for another token.

    Source: Devlin et al. (arXiv 1810.04805), section 3.
    """

    def __init__(
        self,
        vocab_size: int,
        embed_dim: int,
        max_positions: int,
        num_segments: int = 2,
        dropout: float = 0.0,
        positions: str = "learned",
        eps: float = 1e-12,
        padding_idx: int | None = None,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        if positions not in POSITIONS:
            raise ValueError(f"positions must be one of {', '.join(POSITIONS)}, got {positions!r}")
        self.max_positions = max_positions
        self.token = Embedding(
            vocab_size, embed_dim, padding_idx, rngs=rngs, dtype=dtype, param_dtype=param_dtype
        )
        self.segment = Embedding(num_segments, embed_dim, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.position = POSITIONS[positions](
            max_positions, embed_dim, rngs=rngs, dtype=dtype, param_dtype=param_dtype
        )
        self.norm = LayerNorm(embed_dim, eps=eps, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.dropout = Dropout(dropout, rngs=rngs)

    def __call__(
        self, token_ids: Integer[Array, "*b t"], segment_ids: Integer[Array, "*b t"] | None = None
    ) -> Float[Array, "*b t d"]:
        """`(t,)` or `(b, t)` ids, with segment 0 throughout where none is given, to `(..., t, embed_dim)`."""
        require_ids("token_ids", token_ids)
        require_at_most("the number of tokens", token_ids.shape[-1], "max_positions", self.max_positions)
        if segment_ids is None:
            segment_ids = jnp.zeros_like(token_ids)
        require_ids("segment_ids", segment_ids, shape=token_ids.shape)
        vectors = self.token(token_ids) + self.segment(segment_ids)
        return self.dropout(self.norm(self.position(vectors)))


def require_ids(name: str, ids: Integer[Array, "..."], shape: tuple[int, ...] | None = None) -> None:
    """Raise ValueError unless `ids` are integers, of `shape` where it is given, else `(t,)` or `(b, t)`."""
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise ValueError(f"{name} must be integers, got {ids.dtype}")
    if shape is None and ids.ndim not in (1, 2):
        raise ValueError(f"{name} must have shape (t,) or (b, t), got {ids.shape}")
    if shape is not None and ids.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {ids.shape}")
