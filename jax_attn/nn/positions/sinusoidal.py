"""Positions as waves, with nothing to learn."""

from typing import ClassVar

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jax_attn.functional.checks import (
    checked,
    require_at_most,
    require_known,
    require_last_dim,
    require_positive,
)
from jax_attn.functional.logical_axes import LogicalAxes
from jax_attn.nn.positions.attention_positions import require_token_positions
from jax_attn.nn.primitives import LoadedBuffer


class SinusoidalPositions(nnx.Module):
    """Adds sines and cosines of the position to each token, wavelengths from 2π to 2π · 10000.

    Interleaved, as in the paper: `x[t, 2i] + sin(t / 10000^(2i / d))` and `x[t, 2i+1] + cos(t / 10000^(2i / d))`.
    In halves, as in tensor2tensor, fairseq and Whisper, with `k = d / 2`: `x[t, i] + sin(t / 10000^(i / (k-1)))`
    and `x[t, k+i] + cos(t / 10000^(i / (k-1)))`.

    It has neither parameters nor buffers: the table is computed in float64 while tracing, and becomes a
    constant of the compiled program in the input's dtype. Where it is `persistent`, as Whisper's, it is a buffer
    `table` `(num_embeddings, embedding_dim)`, and a checkpoint brings it in its own rounding.

    Args:
        num_embeddings: the most tokens it takes.
        embedding_dim: width of the input.
        layout: "interleaved" or "halves".
        persistent: whether the table is a buffer, which checkpoints hold.
        rngs: not used; taken so that every kind of position is built alike.
        dtype: dtype of the output; None is the input's.
        param_dtype: dtype of the buffer.

    Raises:
        ValueError: the input is not `(t, d)` or `(b, t, d)`, or has more than `num_embeddings` tokens; a layout
            that is not known, or halves of an odd width or one below 4; positions that are not integers, or do not
            fit the input.

    Source: Vaswani et al. (arXiv 1706.03762), section 3.5; halves as transformers' Whisper and Speech2Text.
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "table": ("positions", "embed"),
    }

    @checked
    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        layout: str = "interleaved",
        persistent: bool = False,
        *,
        rngs: nnx.Rngs | None = None,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_positive("num_embeddings", num_embeddings)
        require_positive("embedding_dim", embedding_dim)
        require_known("layout", layout, LAYOUTS)
        if layout == "halves" and (embedding_dim % 2 or embedding_dim < 4):
            raise ValueError(
                f"embedding_dim must be even and at least 4 in halves, got embedding_dim={embedding_dim}"
            )
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.layout = layout
        self.dtype = dtype
        table = LAYOUTS[layout](num_embeddings, embedding_dim) if persistent else None
        self.table = None if table is None else LoadedBuffer(jnp.asarray(table, param_dtype))

    def __call__(
        self, x: Float[Array, "*b t d"], positions: Int[Array, "..."] | None = None
    ) -> Float[Array, "*b t d"]:
        """`(t, d)` or `(b, t, d)` to the same shape.

        Args:
            x: the tokens.
            positions: `(t,)` or `(b, t)`, where they stand; below 0 is padding, to which nothing is added, and from
                `num_embeddings` on the output is NaN. None counts from 0.
        """
        require_last_dim("x", x.shape, self.embedding_dim)
        x = x if self.dtype is None else x.astype(self.dtype)
        tokens = x.shape[-2]
        if positions is None:
            require_at_most("the number of tokens", tokens, "num_embeddings", self.num_embeddings)
            return x + self._rows(tokens, x.dtype)
        require_token_positions(positions, x.shape)
        rows = (
            self._rows(self.num_embeddings, x.dtype)
            .at[jnp.maximum(positions, 0)]
            .get(mode="fill", fill_value=jnp.nan)
        )
        return x + jnp.where((positions < 0)[..., None], 0, rows)

    def _rows(self, tokens: int, dtype: DTypeLike) -> Float[Array, "t d"]:
        """The table up to a position."""
        if self.table is not None:
            return self.table[:tokens].astype(dtype)
        return jnp.asarray(LAYOUTS[self.layout](tokens, self.embedding_dim), dtype)


def sinusoids(tokens: int, width: int) -> np.ndarray:
    """The table `(tokens, width)` of the interleaved formula above, in float64."""
    column = np.arange(width)
    angles = np.arange(tokens)[:, None] / 10000.0 ** (2 * (column // 2) / width)
    return np.where(column % 2 == 0, np.sin(angles), np.cos(angles))


def sinusoids_in_halves(tokens: int, width: int) -> np.ndarray:
    """The table `(tokens, width)` of the formula in halves, in float64."""
    half = width // 2
    angles = np.arange(tokens)[:, None] / 10000.0 ** (np.arange(half) / (half - 1))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


LAYOUTS = {"interleaved": sinusoids, "halves": sinusoids_in_halves}
