"""One vector for a sequence."""

from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jax_attn.functional.activations import ACTIVATIONS
from jax_attn.functional.checks import checked, require_boolean_mask, require_known, require_last_dim
from jax_attn.functional.logical_axes import LogicalAxes, constrain
from jax_attn.functional.pooling import POOLINGS
from jax_attn.nn.primitives import Linear


class Pooler(nnx.Module):
    """`activation(pool(x) W + b)`, or `pool(x)` without `dense`.

    ==========  =================================================================
    kind        what becomes of the tokens' vectors
    ==========  =================================================================
    "first"     the first token's: BERT with tanh, DeBERTa with GELU
    "last"      the last token's: causal models
    "mean"      their mean: sentence encoders
    "max"       the largest value of each feature
    ==========  =================================================================

    Parameters: `dense` kernel `(embed_dim, embed_dim)` and bias.

    Args:
        embed_dim: width of input and output.
        kind: as above.
        dense: whether a linear layer and the activation follow.
        activation: "tanh" or another name that `FeedForward` knows.
        rngs: source of the initial weights.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: `kind` or `activation` is not known, or the input is not `(t, embed_dim)` or `(b, t, embed_dim)`
            or the mask not a boolean array of its shape.

    Source: Devlin et al. (arXiv 1810.04805), appendix A; the dense layer and tanh are in its code. Reimers and
    Gurevych (arXiv 1908.10084), section 3.
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "dense": ("embed", None),
    }

    @checked
    def __init__(
        self,
        embed_dim: int,
        kind: str = "first",
        dense: bool = True,
        activation: str = "tanh",
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_known("kind", kind, POOLINGS)
        require_known("activation", activation, ACTIVATIONS)
        self.embed_dim = embed_dim
        self.kind = kind
        self.activation = activation
        self.dense = (
            Linear(embed_dim, embed_dim, rngs=rngs, dtype=dtype, param_dtype=param_dtype) if dense else None
        )

    def __call__(
        self, x: Float[Array, "*b t d"], mask: Bool[Array, "*b t"] | None = None
    ) -> Float[Array, "*b d"]:
        """Pool the tokens of a sequence.

        Args:
            x: `(t, d)` or `(b, t, d)`.
            mask: `(t,)` or `(b, t)`, True = a token, False = padding; None is tokens throughout. Of no tokens, the
                pooled vector is 0.
        """
        require_last_dim("x", x.shape, self.embed_dim)
        if mask is not None:
            require_boolean_mask("mask", mask, [x.shape[:-1]])
        pooled = constrain(POOLINGS[self.kind](x, mask), "batch", None)
        return pooled if self.dense is None else ACTIVATIONS[self.activation](self.dense(pooled))
