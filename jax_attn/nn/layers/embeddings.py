"""From token ids to vectors: what the token is, where it stands, which segment it belongs to."""

from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, Integer

from jax_attn.functional.checks import checked, require_at_most, require_known, require_positive
from jax_attn.functional.dtypes import accumulator
from jax_attn.functional.logical_axes import LogicalAxes, constrain
from jax_attn.nn.positions.attention_positions import token_positions
from jax_attn.nn.positions.learned import LearnedPositions
from jax_attn.nn.positions.sinusoidal import SinusoidalPositions
from jax_attn.nn.primitives import Dropout, Embedding, Linear, make_norm

POSITIONS: dict[str, Callable[..., nnx.Module]] = {
    "learned": LearnedPositions,
    "sinusoidal": SinusoidalPositions,
}


class Embeddings(nnx.Module):
    """`dropout(norm(token[ids] + segment[segment_ids] + position))`, each part of which may be left out.

    With `scaled` the token's vector is multiplied by the root of its width (2017, Gemma). With `embedding_dim` all
    of this is that wide, and a linear layer behind it makes the output (ALBERT, ELECTRA).

    Parameters: `token.embedding` `(vocab_size, width)`, `segment.embedding` `(num_segments, width)`,
    `position.embedding` `(max_positions, width)` where positions are learned, and `norm`; `width` is
    `embedding_dim` or else `embed_dim`. With `embedding_dim`, `projection` kernel `(embedding_dim,
    embed_dim)` and bias.

    Args:
        vocab_size: number of token ids.
        embed_dim: width of the output.
        max_positions: the most tokens it takes; None is no limit, where there are no positions.
        num_segments: number of segment ids; 0 is no segments.
        dropout: probability of dropping an output of the norm while training.
        positions: "learned", "sinusoidal", or a module that adds positions to the vectors; None is none, as where
            the attention tells tokens apart.
        eps: epsilon of the norm.
        padding_idx: the token of padding, whose vector starts at zero and is not trained; None is none.
        norm: "layer" or another name that `make_norm` knows; None is none.
        scaled: whether token vectors are multiplied by the root of their width.
        embedding_dim: width of the tables where it is not that of the output.
        skip_padding: whether positions count only the tokens that are not `padding_idx`, whose position is below 0
            (RoBERTa), where none are given.
        rngs: source of the initial weights and of dropout.
        dtype: dtype of the output; None is that of the parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: `positions` or `norm` is not known, `max_positions` is None beside positions, `padding_idx` is
            outside the vocabulary or None with `skip_padding`, the ids are not integers or not `(t,)` or `(b, t)`,
            segment ids have another shape than token ids or there are no segments, or there are more than
            `max_positions` tokens.

    An id outside its table gives NaN, under `jit` too, where its value cannot be looked at: it is never
    taken for another token.

    Source: Devlin et al. (arXiv 1810.04805), section 3; factorised: Lan et al. (arXiv 1909.11942), section 3.1.
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "segment": (None, "embed"),
        "projection": ("embed", None),
    }

    @checked
    def __init__(
        self,
        vocab_size: int,
        embed_dim: int,
        max_positions: int | None,
        num_segments: int = 2,
        dropout: float = 0.0,
        positions: str | nnx.Module | None = "learned",
        eps: float = 1e-12,
        padding_idx: int | None = None,
        norm: str | None = "layer",
        scaled: bool = False,
        embedding_dim: int | None = None,
        skip_padding: bool = False,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        if positions is not None and not isinstance(positions, nnx.Module):
            require_known("positions", positions, POSITIONS)
            if max_positions is None:
                raise ValueError(f"max_positions must be an integer with positions={positions!r}, got None")
            require_positive("max_positions", max_positions)
        if skip_padding and padding_idx is None:
            raise ValueError("padding_idx must be an integer with skip_padding=True, got None")
        width = embed_dim if embedding_dim is None else embedding_dim
        own: dict[str, Any] = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.max_positions = max_positions
        self.skipped = padding_idx if skip_padding else None
        self.scale = width**0.5 if scaled else None
        self.token = Embedding(vocab_size, width, padding_idx, **own)
        self.segment: Any = Embedding(num_segments, width, **own) if num_segments else None
        self.position: Any = (
            POSITIONS[positions](max_positions, width, **own) if isinstance(positions, str) else positions
        )
        self.norm: Any = None if norm is None else make_norm(norm, width, eps, **own)
        self.dropout = Dropout(dropout, rngs=rngs)
        self.projection = None if embedding_dim is None else Linear(embedding_dim, embed_dim, **own)

    def __call__(
        self,
        token_ids: Integer[Array, "*b t"],
        segment_ids: Integer[Array, "*b t"] | None = None,
        positions: Int[Array, "..."] | None = None,
    ) -> Float[Array, "*b t d"]:
        """`(t,)` or `(b, t)` ids to `(..., t, embed_dim)`.

        Args:
            token_ids: the tokens.
            segment_ids: of the same shape; None is segment 0 throughout.
            positions: `(t,)` or of that shape, where the tokens stand; below 0 is padding. None counts from 0, with
                `skip_padding` the tokens that are none.
        """
        require_ids("token_ids", token_ids)
        if self.max_positions is not None:
            require_at_most("the number of tokens", token_ids.shape[-1], "max_positions", self.max_positions)
        if self.skipped is not None and positions is None:
            positions = token_positions(token_ids != self.skipped, padding=-1)
        x = self.token(token_ids)
        if self.scale is not None:
            x = (x.astype(accumulator(x.dtype)) * self.scale).astype(x.dtype)
        x = self._with_segments(x, segment_ids)
        x = x if self.position is None else self.position(x, positions)
        x = self.dropout(x if self.norm is None else self.norm(x))
        x = x if self.projection is None else self.projection(x)
        return constrain(x, "batch", "length", None)

    def _with_segments(
        self, x: Float[Array, "*b t d"], segment_ids: Integer[Array, "*b t"] | None
    ) -> Float[Array, "*b t d"]:
        shape = x.shape[:-1]
        if self.segment is None:
            if segment_ids is not None:
                raise ValueError("segment_ids must be None, for there are no segments: num_segments=0")
            return x
        if segment_ids is None:
            segment_ids = jnp.zeros(shape, jnp.int32)
        require_ids("segment_ids", segment_ids, shape=shape)
        return x + self.segment(segment_ids)


def require_ids(name: str, ids: Integer[Array, "..."], shape: tuple[int, ...] | None = None) -> None:
    """Raise ValueError unless `ids` are integers, of `shape` where it is given, else `(t,)` or `(b, t)`."""
    if not jnp.issubdtype(ids.dtype, jnp.integer):
        raise ValueError(f"{name} must be integers, got {ids.dtype}")
    if shape is None and ids.ndim not in (1, 2):
        raise ValueError(f"{name} must have shape (t,) or (b, t), got {ids.shape}")
    if shape is not None and ids.shape != shape:
        raise ValueError(f"{name} must have shape {shape}, got {ids.shape}")
