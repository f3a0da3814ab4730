"""Scores of all tokens, for those that were hidden."""

from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.functional.activations import ACTIVATIONS
from jax_attn.functional.checks import checked, require_known, require_last_dim, require_positive
from jax_attn.functional.logical_axes import LogicalAxes
from jax_attn.nn.layers.tied_head import TiedHead
from jax_attn.nn.primitives import Linear, make_norm


class MaskedLMHead(nnx.Module):
    """`norm(activation(x W_dense + b_dense)) W + b`; `W` is the table of the embeddings, `Eᵀ`, where `tied`.

    A tied head is called with the table, which it does not own, as `TiedHead`.

    Parameters: `dense` kernel `(embed_dim, width)` and bias, `norm`, and `decoder` kernel `(width, vocab_size)` and
    bias, or where tied `tied_decoder`, a bias `(vocab_size,)`; `width` is `embedding_dim` or else `embed_dim`.

    Args:
        embed_dim: width of the input.
        vocab_size: number of tokens.
        activation: "gelu" or another name that `FeedForward` knows.
        eps: epsilon of the norm.
        tied: whether the scores come from the table of the embeddings.
        embedding_dim: width of that table where it is not `embed_dim` (ALBERT, ELECTRA).
        norm: "layer" or another name that `make_norm` knows.
        rngs: source of the initial weights.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: `activation` or `norm` is not known, a size is not positive, a tied head is called without a
            table or another with one, or input or table has a wrong shape.

    Source: Devlin et al. (arXiv 1810.04805), section 3.1; the dense layer and the norm are in its code.
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "dense": ("embed", None),
        "decoder": ("embed", "vocab"),
    }

    @checked
    def __init__(
        self,
        embed_dim: int,
        vocab_size: int,
        activation: str = "gelu",
        eps: float = 1e-12,
        tied: bool = True,
        embedding_dim: int | None = None,
        norm: str = "layer",
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_known("activation", activation, ACTIVATIONS)
        require_positive("embed_dim", embed_dim)
        require_positive("vocab_size", vocab_size)
        width = embed_dim if embedding_dim is None else embedding_dim
        own: dict[str, Any] = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.embed_dim, self.activation, self.tied = embed_dim, activation, tied
        self.dense = Linear(embed_dim, width, **own)
        self.norm: Any = make_norm(norm, width, eps, **own)
        self.decoder: Any = None if tied else Linear(width, vocab_size, **own)
        self.tied_decoder: Any = TiedHead(vocab_size, bias=True, **own) if tied else None

    def __call__(
        self, x: Float[Array, "*b t d"], table: Float[Array, "v e"] | None = None
    ) -> Float[Array, "*b t v"]:
        """`(t, d)` to logits `(t, vocab_size)`, or the same with a batch axis before.

        Args:
            x: `(t, d)` or `(b, t, d)`.
            table: `(vocab_size, width)`, the embeddings' own, where the head is tied.
        """
        require_last_dim("x", x.shape, self.embed_dim)
        if (table is None) == self.tied:
            wanted = "the table of the embeddings" if self.tied else "None"
            raise ValueError(f"table must be {wanted}, for tied={self.tied}")
        hidden = self.norm(ACTIVATIONS[self.activation](self.dense(x)))
        return self.decoder(hidden) if table is None else self.tied_decoder(hidden, table)
