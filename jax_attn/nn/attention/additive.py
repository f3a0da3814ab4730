"""The first attention: a small network scores each pair of a query and a key."""

from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jax_attn.functional.checks import checked, require_context, require_last_dim, require_positive
from jax_attn.functional.given_scores import attend_by_scores, pairs_allowed, seen_alone
from jax_attn.functional.logical_axes import LogicalAxes
from jax_attn.nn.attention.weights import keep_weights
from jax_attn.nn.primitives import Linear


class AdditiveAttention(nnx.Module):
    """`softmax(scores) context`, `scores[t, s] = vᵀ tanh(W_q x[t] + W_k context[s])`.

    The output is a mean of the context's own vectors, which are projected for the scores alone. Luong's score
    `concat`, `vᵀ tanh(W [x; context])`, is this one, with the columns of `W` in the two projections.

    Parameters: `q_proj` kernel `(embed_dim, hidden_dim)`, `k_proj` kernel `(context_dim, hidden_dim)`, with a
    bias each with `bias`, and `score_proj` kernel `(hidden_dim, 1)`.

    Args:
        embed_dim: width of the queries.
        context_dim: width of the context and of the output; None is `embed_dim`.
        hidden_dim: width of the scoring network; None is `embed_dim`.
        bias: whether the two projections have a bias; the papers have none.
        rngs: source of the initial weights.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: a size below 1, an input of another width or rank, or a mask that is not boolean or does
            not fit.

    Source: Bahdanau et al. (arXiv 1409.0473), appendix A.1.2; `concat`: Luong et al. (arXiv 1508.04025).
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "q_proj": ("embed", "mlp"),
        "k_proj": ("embed", "mlp"),
        "score_proj": ("mlp", None),
    }

    @checked
    def __init__(
        self,
        embed_dim: int,
        context_dim: int | None = None,
        hidden_dim: int | None = None,
        bias: bool = False,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        self.embed_dim = embed_dim
        self.context_dim = embed_dim if context_dim is None else context_dim
        hidden_dim = embed_dim if hidden_dim is None else hidden_dim
        require_positive("embed_dim", embed_dim)
        require_positive("context_dim", self.context_dim)
        require_positive("hidden_dim", hidden_dim)

        def linear(inputs: int, outputs: int, bias: bool) -> Linear:
            return Linear(inputs, outputs, bias=bias, rngs=rngs, dtype=dtype, param_dtype=param_dtype)

        self.q_proj = linear(embed_dim, hidden_dim, bias)
        self.k_proj = linear(self.context_dim, hidden_dim, bias)
        self.score_proj = linear(hidden_dim, 1, False)  # the softmax would cancel its bias

    def __call__(
        self,
        x: Float[Array, "*b t d"],
        context: Float[Array, "*b s c"],
        mask: Bool[Array, "..."] | None = None,
        *,
        return_weights: bool = False,
    ) -> Array | tuple[Array, Array]:
        """Attend from `x` to `context`.

        Args:
            x: `(b, t, embed_dim)`, or `(t, embed_dim)`, and then nothing below has a batch axis either.
            context: `(b, s, context_dim)`.
            mask: True = attend, `(b, s)`: which keys may be seen, or `(b, t, s)`: by which query.
            return_weights: whether to return the attention weights too.

        Returns:
            `(b, t, context_dim)`, 0 where a query may attend to nothing; with `return_weights`
            `(output, weights)`, the weights `(b, t, s)`.
        """
        require_last_dim("x", x.shape, self.embed_dim)
        require_context(context.shape, x.shape, self.context_dim)
        allowed = pairs_allowed(mask, x.shape, context.shape)
        context = seen_alone(context, allowed)
        hidden = jnp.tanh(self.q_proj(x)[..., :, None, :] + self.k_proj(context)[..., None, :, :])
        output, weights = attend_by_scores(self.score_proj(hidden)[..., 0], context, allowed)
        keep_weights(self, weights)
        return (output, weights) if return_weights else output
