"""A stack of encoder layers: a list of them, or one whose leaves carry all the layers."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jax_attn.functional.checks import require_last_dim, require_positive
from jax_attn.nn.layers.encoder_layer import EncoderLayer
from jax_attn.nn.primitives import LayerNorm


class Encoder(nnx.Module):
    """`num_layers` encoder layers, one after another: the output has the size of the input.

    With `scan` the layers are one `EncoderLayer` whose every leaf has a leading axis of `num_layers`, and
    the stack is one loop: it compiles once in place of once a layer, and a train step handles fewer arrays.
    The numbers are those of the list, from the same seed too, dropout included.

    Parameters: `layers.{i}.…` as in `EncoderLayer`, or with `scan` `layers.…` with a leading layer axis (and
    `stacked = ("layers",)` says so); `norm` with `final_norm`.

    Args:
        num_layers: number of layers.
        embed_dim: width of input and output.
        num_heads: number of attention heads; it divides `embed_dim`.
        hidden_dim: width inside the feed-forward.
        activation: of the feed-forward: "gelu", "gelu_tanh" or "relu".
        norm_placement: "post" or "pre".
        final_norm: whether a layer norm follows the last layer, as pre-norm wants.
        dropout: probability of dropping an element of what is added to the skip connections, while training.
        attention_dropout: probability of dropping an attention weight, while training.
        eps: epsilon of the layer norms.
        scan: whether the layers are stacked.
        remat: whether the backward pass computes each layer again, in place of keeping what is inside it.
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: as in `EncoderLayer`, or `num_layers` is not positive.

    Source: Vaswani et al. (arXiv 1706.03762), section 3.1.
    """

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
        eps: float = 1e-12,
        *,
        scan: bool = False,
        remat: bool = False,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_positive("num_layers", num_layers)
        self.embed_dim = embed_dim
        self.norm_placement = norm_placement
        self.dtype = dtype
        self.param_dtype = param_dtype
        self.stacked = ("layers",) if scan else ()
        self.remat = remat
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
                rngs=rngs,
                dtype=dtype,
                param_dtype=param_dtype,
            )
            for _ in range(num_layers)
        ]
        self.layers = stack(layers) if scan else nnx.List(layers)
        self.norm = (
            LayerNorm(embed_dim, eps=eps, rngs=rngs, dtype=dtype, param_dtype=param_dtype)
            if final_norm
            else None
        )

    def __call__(
        self, x: Float[Array, "*b t d"], mask: Bool[Array, "..."] | None = None
    ) -> Float[Array, "*b t d"]:
        """`(t, d)` or `(b, t, d)` to the same shape; the mask as in `MultiHeadAttention`."""
        require_last_dim("x", x.shape, self.embed_dim)
        # graph=False: the layers share nothing, and only so may a model merged inside `jax.grad` run them.
        step = nnx.remat(run_layer, graph=False) if self.remat else run_layer
        if isinstance(self.layers, nnx.List):
            for layer in self.layers:
                x = step(layer, x, mask)
        else:
            # A loop cannot widen what it carries, as the first of the layers in a list does.
            given = jnp.promote_types(x.dtype, self.param_dtype) if self.dtype is None else self.dtype
            x = x.astype(given if self.norm_placement == "post" else jnp.promote_types(x.dtype, given))
            loop = nnx.scan(step, in_axes=(0, nnx.Carry, None), out_axes=nnx.Carry, graph=False)
            x = loop(self.layers, x, mask)
        return x if self.norm is None else self.norm(x)


def run_layer(
    layer: EncoderLayer, x: Float[Array, "*b t d"], mask: Bool[Array, "..."] | None
) -> Float[Array, "*b t d"]:
    """One step of the stack. A function of the module, so that JAX knows it again and compiles it once."""
    return layer(x, mask)


def stack(layers: list[EncoderLayer]) -> EncoderLayer:
    """One layer whose every leaf, the dropout keys included, has a leading axis over `layers`."""
    graphdef, *_ = nnx.split(layers[0])
    states = [nnx.state(layer) for layer in layers]
    return nnx.merge(graphdef, jax.tree.map(lambda *leaves: jnp.stack(leaves), *states))
