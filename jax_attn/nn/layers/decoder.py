"""A stack of decoder layers of one kind."""

from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jax_attn.functional.checks import checked, require_last_dim, require_positive
from jax_attn.nn.layers.decoder_layer import DecoderLayer
from jax_attn.nn.layers.encoder import require_no_parts
from jax_attn.nn.layers.stack import Stack
from jax_attn.nn.primitives import make_norm


class Decoder(Stack):
    """`num_layers` decoder layers, one after another: the output has the size of the input.

    With a `context_dim` each layer attends to a context too, as in 2017; without, it is the body of a GPT. What is
    built from other parts than these sizes say, or from layers that differ, is a `Stack` of `DecoderLayer`.

    Token by token, in chunks of any size, with padding anywhere::

        cache = decoder.init_cache(batch, length, context)
        output, cache = decoder(x, mask=mask, cache=cache)

    Parameters: `layers.{i}.…` as in `DecoderLayer`, or with `scan` `layers.…` with a leading layer axis, as in
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
        context_dim: width of the context; None is no context.
        scan: whether the layers are stacked, as in `Stack`.
        remat: whether the backward pass computes each layer again, in place of keeping what is inside it.
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.
        layer_arguments: the other arguments of `DecoderLayer`, but for its parts.

    Raises:
        ValueError: as in `DecoderLayer`, or `num_layers` is not positive.

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
        eps: float | None = 1e-5,
        norm: str = "layer",
        context_dim: int | None = None,
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
            DecoderLayer(
                embed_dim,
                num_heads,
                hidden_dim,
                activation,
                norm_placement,
                dropout,
                attention_dropout,
                eps,
                norm,
                context_dim=context_dim,
                **layer_arguments,
                **options,
            )
            for _ in range(num_layers)
        ]
        last = make_norm(norm, embed_dim, eps, **options) if final_norm else None
        super().__init__(layers, last, scan=scan, remat=remat)
        self.embed_dim = embed_dim

    def __call__(
        self,
        x: Float[Array, "*b t d"],
        context: Float[Array, "*b s k"] | None = None,
        mask: Bool[Array, "..."] | None = None,
        context_mask: Bool[Array, "..."] | None = None,
        *,
        cache: Any = None,
        **options: Any,
    ) -> Any:
        """`(t, d)` or `(b, t, d)` to the same shape; called as `DecoderLayer`.

        Args:
            x: the tokens; with a cache, those that come next.
            context: `(b, s, context_dim)`, or without `b`. Not given with a cache, which holds it.
            mask: which tokens may be seen, as in `MultiHeadAttention`; with a cache `(b, t)`, which are no padding.
            context_mask: likewise, of the context.
            cache: of `init_cache`: a tuple of those of the layers, or with `scan` one with a leading layer axis.
            options: what else the self-attention takes: positions, segment ids, a bias.

        Returns:
            the output; with a cache, a tuple of that and the new cache.
        """
        require_last_dim("x", x.shape, self.embed_dim)
        return super().__call__(x, context, mask, context_mask, cache=cache, **options)
