"""A stack of encoder layers of one kind."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jax_attn.functional.checks import checked, require_last_dim, require_positive
from jax_attn.nn.layers.encoder_layer import EncoderLayer
from jax_attn.nn.layers.stack import Stack
from jax_attn.nn.primitives import make_norm


class Encoder(Stack):
    """`num_layers` encoder layers, one after another: the output has the size of the input.

    What is built from other parts than these sizes say, or from layers that differ, is a `Stack` of `EncoderLayer`.

    Parameters: `layers.{i}.…` as in `EncoderLayer`, or with `scan` `layers.…` with a leading layer axis, as in
    `Stack`; `norm` with `final_norm`.

    Args:
        num_layers: number of layers.
        embed_dim: width of input and output.
        num_heads: number of attention heads; it divides `embed_dim`.
        hidden_dim: width inside the feed-forward.
        activation: of the feed-forward, as in `FeedForward`.
        norm_placement: as in `EncoderLayer`.
        final_norm: whether a norm follows the last layer, as pre-norm wants.
        dropout: probability of dropping an element of what is added to the skip connections, while training.
        attention_dropout: probability of dropping an attention weight, while training.
        eps: epsilon of the norms; None is the default of their class.
        norm: kind of the norms, as in `make_norm`.
        scan: whether the layers are stacked, as in `Stack`.
        remat: whether the backward pass computes each layer again, in place of keeping what is inside it.
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.
        layer_arguments: the other arguments of `EncoderLayer`, but for its parts.

    Raises:
        ValueError: as in `EncoderLayer`, or `num_layers` is not positive.

    Source: Vaswani et al. (arXiv 1706.03762), section 3.1.
    """

    @checked
    def __init__(
        self,
        num_layers: int,
        embed_dim: int,
        num_heads: int,
        hidden_dim: int,
        activation: str = "gelu",
        norm_placement: str = "post",
        final_norm: bool = False,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        eps: float | None = 1e-12,
        norm: str = "layer",
        *,
        scan: bool = False,
        remat: bool = False,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
        **layer_arguments: Any,
    ):
        require_positive("num_layers", num_layers)
        require_no_parts(layer_arguments)
        options: dict[str, Any] = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        layers = [
            EncoderLayer(
                embed_dim,
                num_heads,
                hidden_dim,
                activation,
                norm_placement,
                dropout,
                attention_dropout,
                eps,
                norm,
                **layer_arguments,
                **options,
            )
            for _ in range(num_layers)
        ]
        last = make_norm(norm, embed_dim, eps, **options) if final_norm else None
        super().__init__(layers, last, scan=scan, remat=remat)
        self.embed_dim = embed_dim

    def __call__(
        self, x: Float[Array, "*b t d"], mask: Bool[Array, "..."] | None = None, **options: Any
    ) -> Float[Array, "*b t d"]:
        """`(t, d)` or `(b, t, d)` to the same shape; mask and options as in `EncoderLayer`."""
        require_last_dim("x", x.shape, self.embed_dim)
        return super().__call__(x, mask, **options)


def require_no_parts(arguments: dict[str, Any]) -> None:
    """Raise ValueError where a module is among the arguments: all layers would share it."""
    for name, value in arguments.items():
        if isinstance(value, nnx.Module):
            raise ValueError(
                f"{name} is one module, which every layer would share: build the layers and give them to Stack"
            )
