"""The two linear layers that every token goes through on its own."""

from typing import ClassVar

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.functional.activations import ACTIVATIONS
from jax_attn.functional.checks import checked, require_known, require_last_dim, require_positive
from jax_attn.functional.logical_axes import LogicalAxes, constrain
from jax_attn.nn.primitives import Dropout, Linear


class FeedForward(nnx.Module):
    """`dropout(activation(x W_up + b_up) W_down + b_down)`, for each token alone.

    Parameters: `up` kernel `(embed_dim, hidden_dim)`, `down` kernel `(hidden_dim, embed_dim)`, and their
    biases.

    Args:
        embed_dim: width of input and output.
        hidden_dim: width in between, usually `4 * embed_dim`.
        activation: "gelu" (with erf), "gelu_tanh", "quick_gelu", "silu", "relu", "relu2" (squared), or another
            name of `jax_attn.functional.activations.ACTIVATIONS`, which knows those of config.json files.
        dropout: probability of dropping an output while training.
        bias: whether the two linear layers have one.
        activation_dropout: probability of dropping an element in between while training (T5, Whisper).
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: the activation is not known, a width is not positive, or the input is not `(t, embed_dim)` or
            `(b, t, embed_dim)`.

    Source: Vaswani et al. (arXiv 1706.03762), section 3.3.
    """

    logical_axes: ClassVar[LogicalAxes] = {
        "up": ("embed", "mlp"),
        "down": ("mlp", "embed"),
    }

    @checked
    def __init__(
        self,
        embed_dim: int,
        hidden_dim: int,
        activation: str = "gelu",
        dropout: float = 0.0,
        bias: bool = True,
        activation_dropout: float = 0.0,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_known("activation", activation, ACTIVATIONS)
        require_positive("embed_dim", embed_dim)
        require_positive("hidden_dim", hidden_dim)
        self.embed_dim = embed_dim
        self.activation = activation
        self.up = Linear(embed_dim, hidden_dim, bias, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.down = Linear(hidden_dim, embed_dim, bias, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
        self.activation_dropout = Dropout(activation_dropout, rngs=rngs) if activation_dropout else None
        self.dropout = Dropout(dropout, rngs=rngs)

    def __call__(self, x: Float[Array, "*b t d"]) -> Float[Array, "*b t d"]:
        """`(t, d)` or `(b, t, d)` to the same shape."""
        require_last_dim("x", x.shape, self.embed_dim)
        hidden = ACTIVATIONS[self.activation](self.up(x))
        hidden = hidden if self.activation_dropout is None else self.activation_dropout(hidden)
        return self.dropout(self.down(constrain(hidden, "batch", "length", "mlp")))
