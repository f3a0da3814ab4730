"""Self-attention with nothing to learn: tokens are compared by their dot products."""

from typing import Literal, overload

import jax.numpy as jnp
from flax import nnx
from flax.nnx.nn.dtypes import promote_dtype
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.functional.checks import require_last_dim
from jax_attn.functional.softmax import masked_softmax


class SimpleSelfAttention(nnx.Module):
    """Self-attention without trained weights and without a scale.

    `softmax(x xᵀ) x`: each token becomes a mean of all tokens, weighted by how well they match it.

    Parameters: none.

    Args:
        rngs: not used, there is nothing to draw; taken because every module takes it.
        dtype: dtype to compute in; None is the input's own.
        param_dtype: not used, there are no parameters.

    Raises:
        ValueError: the input is not `(t, d)` or `(b, t, d)`.

    Source: "Build a Large Language Model From Scratch", section 3.3.
    """

    def __init__(
        self,
        *,
        rngs: nnx.Rngs | None = None,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        self.dtype = dtype

    @overload
    def __call__(self, x: Array, need_weights: Literal[False] = False) -> Array: ...

    @overload
    def __call__(self, x: Array, need_weights: Literal[True]) -> tuple[Array, Array, Array]: ...

    def __call__(
        self, x: Float[Array, "*b t d"], need_weights: bool = False
    ) -> (
        Float[Array, "*b t d"] | tuple[Float[Array, "*b t d"], Float[Array, "*b t t"], Float[Array, "*b t t"]]
    ):
        """`(t, d)` or `(b, t, d)` to the same; with `need_weights` to `(output, scores, weights)`.

        Scores and weights are `(t, t)` or `(b, t, t)`: row i holds what token i pays to each token.
        """
        require_last_dim("x", x.shape, None)
        (x,) = promote_dtype((x,), dtype=self.dtype)

        scores = x @ x.mT
        weights = masked_softmax(scores)
        output = weights @ x
        return (output, scores, weights) if need_weights else output
