"""From a sequence of vectors to where an answer starts and ends."""

from typing import ClassVar, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.functional.checks import checked, require_last_dim, require_positive
from jax_attn.functional.logical_axes import LogicalAxes
from jax_attn.nn.primitives import Dropout, Linear


class SpanLogits(NamedTuple):
    """What `SpanHead` returns, `(t,)` or `(b, t)` each.

    Attributes:
        start: score of each token as the first of the answer.
        end: score of each token as the last of the answer.
    """

    start: Array
    end: Array


class SpanHead(nnx.Module):
    """`dropout(x) W + b`, two scores for each token: as the first and as the last token of an answer.

    Parameters: `linear` kernel `(embed_dim, 2)` and bias.

    Args:
        embed_dim: width of the input.
        dropout: probability of dropping a feature while training (DistilBERT).
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: `embed_dim` is not positive, or the input not `(t, embed_dim)` or `(b, t, embed_dim)`.

    Source: Devlin et al. (arXiv 1810.04805), section 4.2.
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "linear": ("embed", "classes"),
    }

    @checked
    def __init__(
        self,
        embed_dim: int,
        dropout: float = 0.0,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_positive("embed_dim", embed_dim)
        self.embed_dim = embed_dim
        self.dropout = Dropout(dropout, rngs=rngs)
        self.linear = Linear(embed_dim, 2, rngs=rngs, dtype=dtype, param_dtype=param_dtype)

    def __call__(self, x: Float[Array, "*b t d"]) -> SpanLogits:
        """`(t, d)` or `(b, t, d)` to both scores of each token."""
        require_last_dim("x", x.shape, self.embed_dim)
        logits = self.linear(self.dropout(x))
        return SpanLogits(logits[..., 0], logits[..., 1])
