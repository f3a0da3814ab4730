"""From a sequence of vectors to one score for each class and token."""

from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.functional.activations import ACTIVATIONS
from jax_attn.functional.checks import checked, require_known, require_last_dim, require_positive
from jax_attn.functional.logical_axes import LogicalAxes
from jax_attn.nn.primitives import Dropout, Linear


class TokenClassificationHead(nnx.Module):
    """`dropout(x) W + b` for each token, such as whether it belongs to a name.

    With `dense`, as ELECTRA's discriminator has it: `dropout(activation(x W_dense + b_dense)) W + b`.

    Parameters: `linear` kernel `(embed_dim, num_classes)` and bias; with `dense`, `dense` kernel `(embed_dim,
    embed_dim)` and bias.

    Args:
        embed_dim: width of the input.
        num_classes: number of classes; None is a single score of each token, without an axis of classes.
        dropout: probability of dropping a feature while training.
        dense: whether a linear layer and the activation stand before all this.
        activation: "gelu" or another name that `FeedForward` knows.
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: `num_classes` is not positive, `activation` is not known, or the input not `(t, embed_dim)` or
            `(b, t, embed_dim)`.

    Source: Devlin et al. (arXiv 1810.04805), section 5.3; Clark et al. (arXiv 2003.10555), in its code.
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "dense": ("embed", None),
        "linear": ("embed", "classes"),
    }

    @checked
    def __init__(
        self,
        embed_dim: int,
        num_classes: int | None,
        dropout: float = 0.0,
        dense: bool = False,
        activation: str = "gelu",
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        scores = 1 if num_classes is None else num_classes
        require_positive("num_classes", scores)
        require_known("activation", activation, ACTIVATIONS)
        own: dict[str, Any] = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.embed_dim = embed_dim
        self.num_classes = num_classes
        self.activation = activation
        self.dense = Linear(embed_dim, embed_dim, **own) if dense else None
        self.dropout = Dropout(dropout, rngs=rngs)
        self.linear = Linear(embed_dim, scores, **own)

    def __call__(self, x: Float[Array, "*b t d"]) -> Float[Array, "*b t c"] | Float[Array, "*b t"]:
        """`(t, d)` to logits `(t, num_classes)`, or `(t,)` where that is None; or with a batch axis before."""
        require_last_dim("x", x.shape, self.embed_dim)
        x = x if self.dense is None else ACTIVATIONS[self.activation](self.dense(x))
        logits = self.linear(self.dropout(x))
        return logits[..., 0] if self.num_classes is None else logits
