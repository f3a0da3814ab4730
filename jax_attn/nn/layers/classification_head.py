"""From a sequence of vectors to one score for each class."""

from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jax_attn.functional.activations import ACTIVATIONS
from jax_attn.functional.checks import checked, require_known, require_last_dim, require_positive
from jax_attn.functional.logical_axes import LogicalAxes, constrain
from jax_attn.functional.pooling import POOLINGS
from jax_attn.nn.layers.pooler import Pooler
from jax_attn.nn.primitives import Dropout, Linear


class ClassificationHead(nnx.Module):
    """`dropout(pool(x)) W + b`; by default the first token's vector, which has attended to all others, decides.

    With `dense`, as RoBERTa and ELECTRA have it: `dropout(activation(dropout(pool(x)) W_dense + b_dense)) W + b`;
    DistilBERT has no dropout before the dense layer.

    Parameters: `linear` kernel `(embed_dim, num_classes)` and bias; with `dense`, `dense` kernel `(embed_dim,
    embed_dim)` and bias.

    Args:
        embed_dim: width of the input.
        num_classes: number of classes.
        dropout: probability of dropping a feature while training.
        pooling: "first", "last", "mean" or "max", as in `Pooler`; None is none: `x` is what a pooler gave.
        dense: whether a linear layer and the activation stand before the last layer.
        activation: "tanh" (RoBERTa), "gelu" (ELECTRA) or another name that `FeedForward` knows.
        input_dropout: probability of dropping a feature of what `dense` reads; None is `dropout`.
        bias: whether the last layer has one.
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: `num_classes` is not positive, `pooling` or `activation` is not known, or input or mask has a
            wrong shape.

    Source: "Natural Language Processing with Transformers", ch. 3; Liu et al. (arXiv 1907.11692), in its code.
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "dense": ("embed", None),
        "linear": ("embed", "classes"),
    }

    @checked
    def __init__(
        self,
        embed_dim: int,
        num_classes: int,
        dropout: float = 0.0,
        pooling: str | None = "first",
        dense: bool = False,
        activation: str = "tanh",
        input_dropout: float | None = None,
        bias: bool = True,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_positive("num_classes", num_classes)
        if pooling is not None:
            require_known("pooling", pooling, POOLINGS)
        require_known("activation", activation, ACTIVATIONS)
        own: dict[str, Any] = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.embed_dim = embed_dim
        self.pooler = None if pooling is None else Pooler(embed_dim, pooling, dense=False, **own)
        self.activation = activation
        self.input_dropout: Any = (
            Dropout(dropout if input_dropout is None else input_dropout, rngs=rngs) if dense else None
        )
        self.dense = Linear(embed_dim, embed_dim, **own) if dense else None
        self.dropout = Dropout(dropout, rngs=rngs)
        self.linear = Linear(embed_dim, num_classes, bias, **own)

    def __call__(
        self, x: Float[Array, "*s d"], mask: Bool[Array, "*s"] | None = None
    ) -> Float[Array, "*b c"]:
        """`(t, d)` to logits `(num_classes,)`, or `(b, t, d)` to `(b, num_classes)`; the mask as in `Pooler`.

        Without `pooling`, `(d,)` or `(b, d)` to the same.
        """
        if self.pooler is None:
            require_last_dim("x", x.shape, self.embed_dim, ndims=(1, 2))
        else:
            x = self.pooler(x, mask)
        if self.dense is not None:
            x = ACTIVATIONS[self.activation](self.dense(self.input_dropout(x)))
        return constrain(self.linear(self.dropout(x)), "batch", None)
