"""A head behind one more nonlinear layer."""

from typing import Any, ClassVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.functional.activations import ACTIVATIONS
from jax_attn.functional.checks import checked, require_known, require_last_dim, require_positive
from jax_attn.functional.logical_axes import LogicalAxes
from jax_attn.nn.primitives import Linear, make_norm


class TransformedHead(nnx.Module):
    """`head(norm(activation(pool(x) W + b)))`: every head of ModernBERT.

    Parameters: `dense` kernel `(embed_dim, embed_dim)` and with `bias` its bias, `norm`, `head.…`.

    Args:
        embed_dim: width of the input.
        head: what reads the result, built.
        pooler: what makes one vector of the tokens before, as `Pooler`, built; None is that each is read.
        activation: "gelu" or another name that `FeedForward` knows.
        bias: whether the linear layer has one.
        norm: "layer" or another name that `make_norm` knows.
        eps: epsilon of the norm.
        rngs: source of the initial weights.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: `embed_dim` is not positive, `activation` or `norm` is not known, or the input is not
            `(t, embed_dim)` or `(b, t, embed_dim)`.

    Source: Warner et al. (arXiv 2412.13663), as transformers' ModernBert.
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "dense": ("embed", None),
        "head": ("embed", "classes"),
    }

    @checked
    def __init__(
        self,
        embed_dim: int,
        head: Any,
        pooler: Any = None,
        activation: str = "gelu",
        bias: bool = True,
        norm: str = "layer",
        eps: float = 1e-5,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_known("activation", activation, ACTIVATIONS)
        require_positive("embed_dim", embed_dim)
        own: dict[str, Any] = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        self.embed_dim = embed_dim
        self.activation = activation
        self.pooler = pooler
        self.dense = Linear(embed_dim, embed_dim, bias, **own)
        self.norm = make_norm(norm, embed_dim, eps, **own)
        self.head = head

    def __call__(self, x: Float[Array, "*b t d"], *given: Array | None) -> Any:
        """What the head gives.

        Args:
            x: `(t, d)` or `(b, t, d)`.
            given: what else the pooler is called with, such as the mask of the tokens; without a pooler, the head,
                such as the table of the embeddings.
        """
        require_last_dim("x", x.shape, self.embed_dim)
        if self.pooler is not None:
            x, given = self.pooler(x, *given), ()
        return self.head(self.norm(ACTIVATIONS[self.activation](self.dense(x))), *given)
