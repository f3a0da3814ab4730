"""One layer of a decoder: attention to the tokens before, attention to a context, then feed-forward."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from jax_attn.functional.checks import checked
from jax_attn.nn.attention.cache import require_cache
from jax_attn.nn.attention.multi_head import NO_WINDOW, MultiHeadAttention
from jax_attn.nn.layers.encoder_layer import EncoderLayer, require_given, require_width
from jax_attn.nn.layers.layer_scale import LayerScale
from jax_attn.nn.primitives import make_norm


class DecoderCache(NamedTuple):
    """What a decoder layer keeps of the tokens it has seen: a plain value.

    Attributes:
        attention: what the self-attention keeps, such as a `KVCache`.
        cross_attention: the `ContextCache` of the context; None without one.
    """

    attention: Any
    cross_attention: Any = None


class DecoderLayer(EncoderLayer):
    """An `EncoderLayer` whose self-attention is causal, and which may attend to a context after that.

    In post-norm (2017)::

        x = attention_norm(x + attention(x))
        x = cross_attention_norm(x + cross_attention(x, context))
        x = feed_forward_norm(x + feed_forward(x))

    Without a context it is a layer of a GPT; the other norm placements are as in `EncoderLayer`.

    Parameters: as `EncoderLayer`, and with a context `cross_attention.…`, `cross_attention_norm`,
    `cross_attention_output_norm` with "sandwich", `cross_attention_scale` with `layer_scale`.

    Args:
        embed_dim: width of input and output.
        num_heads: number of attention heads; it divides `embed_dim`. Not needed where the attentions are given.
        hidden_dim: width inside the feed-forward. Not needed where `feed_forward` is given.
        activation: of the feed-forward, as in `FeedForward`.
        norm_placement: as in `EncoderLayer`.
        dropout: probability of dropping an element of what is added to the skip connections, while training.
        attention_dropout: probability of dropping an attention weight, while training.
        eps: epsilon of the norms; None is the default of their class.
        norm: kind of the norms, as in `make_norm`.
        residual_scale: `α` of post-norm, as in `EncoderLayer`.
        layer_scale: initial value of a learned factor for each feature of a branch; None is no such factor.
        drop_path: probability of going by a branch with a whole sequence, while training.
        attention: the self-attention, built; it has to be causal. None is a `MultiHeadAttention`.
        feed_forward: what each token goes through, built. None is a `FeedForward`.
        context_dim: width of the context; None is no context, unless `cross_attention` is given.
        cross_attention: the attention to the context, built: whatever is called as
            `cross_attention(x, context, mask)`. None is a `MultiHeadAttention` where there is a `context_dim`.
        rngs: source of the initial weights and of dropout.
        dtype: dtype to compute in; None is the common dtype of input and parameters.
        param_dtype: dtype of the parameters.

    Raises:
        ValueError: as in `EncoderLayer`; the attention is not causal; or branches stand side by side ("parallel")
            though there is a context.

    Source: Vaswani et al. (arXiv 1706.03762), section 3.1.
    """

    @checked
    def __init__(
        self,
        embed_dim: int,
        num_heads: int | None = None,
        hidden_dim: int | None = None,
        activation: str = "gelu",
        norm_placement: str = "post",
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        eps: float | None = 1e-5,
        norm: str = "layer",
        residual_scale: float = 1.0,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        attention: Any = None,
        feed_forward: Any = None,
        context_dim: int | None = None,
        cross_attention: Any = None,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        options: dict[str, Any] = {"rngs": rngs, "dtype": dtype, "param_dtype": param_dtype}
        if attention is None:
            heads = require_given("num_heads", num_heads, "attention")
            attention = MultiHeadAttention(
                embed_dim, heads, dropout=attention_dropout, is_causal=True, **options
            )
        if not getattr(attention, "is_causal", True):
            raise ValueError("attention must be causal in a decoder, got one with is_causal=False")
        super().__init__(
            embed_dim,
            num_heads,
            hidden_dim,
            activation,
            norm_placement,
            dropout,
            attention_dropout,
            eps,
            norm,
            residual_scale,
            layer_scale,
            drop_path,
            attention,
            feed_forward,
            **options,
        )
        if cross_attention is None and context_dim is not None:
            heads = require_given("num_heads", num_heads, "cross_attention")
            cross_attention = MultiHeadAttention(
                embed_dim, heads, dropout=attention_dropout, kdim=context_dim, **options
            )
        if cross_attention is not None and self.is_parallel:
            raise ValueError(f"norm_placement={norm_placement!r} is for layers without a context")
        window = getattr(cross_attention, "window", None)
        if window is not None:
            raise ValueError(f"cross_attention must be without a window, got one with {window=}: {NO_WINDOW}")
        self.cross_attention = require_width("cross_attention", cross_attention, embed_dim)
        there = cross_attention is not None
        self.cross_attention_norm, self.cross_attention_output_norm = (
            make_norm(norm, embed_dim, eps, **options) if wanted else None
            for wanted in (there, there and norm_placement == "sandwich")
        )
        self.cross_attention_scale = (
            LayerScale(embed_dim, layer_scale, **options) if there and layer_scale is not None else None
        )

    def __call__(  # ty: ignore[incompatible-method-override]
        self,
        x: Float[Array, "*b t d"],
        context: Float[Array, "*b s k"] | None = None,
        mask: Bool[Array, "..."] | None = None,
        context_mask: Bool[Array, "..."] | None = None,
        *,
        cache: DecoderCache | None = None,
        **options: Any,
    ) -> Any:
        """`(t, d)` or `(b, t, d)` to the same shape; with a cache, a tuple of that and the new cache.

        Args:
            x: the tokens; with a cache, those that come next.
            context: `(b, s, context_dim)`, or without `b`. Not given with a cache, which holds it.
            mask: which tokens may be seen, as in `MultiHeadAttention`; with a cache `(b, t)`, which are no padding.
            context_mask: likewise, of the context: `(b, s)`, `(b, t, s)` or with heads.
            cache: of `init_cache`.
            options: what else the self-attention takes: positions, segment ids, a bias.
        """
        self._check(context, cache)
        own, of_context = (None, None) if cache is None else cache
        if cache is not None:
            options["cache"] = own
        attended = self.attention(self.normed("attention", x), mask=mask, **options)
        if cache is not None:
            attended, own = attended
        after = self.added("attention", x, self.dropout(attended))
        if self.cross_attention is not None:
            query = self.normed("cross_attention", after)
            if cache is None:
                attended = self.cross_attention(query, context, context_mask)
            else:
                attended, of_context = self.cross_attention(query, mask=context_mask, cache=of_context)
            after = self.added("cross_attention", after, self.dropout(attended))
        output = self.feed(x, after, mask)
        return output if cache is None else (output, DecoderCache(own, of_context))

    def init_cache(
        self,
        batch: int,
        length: int,
        context: Float[Array, "b s k"] | None = None,
        dtype: DTypeLike | None = None,
    ) -> DecoderCache:
        """An empty cache for `length` tokens of `batch` sequences that attend to `context`.

        Raises:
            ValueError: there is no context though the layer attends to one, or the other way round; or the
                self-attention cannot be computed token by token.
        """
        self._check(context, None)
        of_context = (
            None if self.cross_attention is None else self.cross_attention.init_context_cache(context)
        )
        return DecoderCache(self.attention.init_cache(batch, length, dtype=dtype), of_context)

    def _check(self, context: Any, cache: DecoderCache | None) -> None:
        """Raise ValueError unless there is a context where one is needed, and only there."""
        if cache is not None:
            require_cache(cache, DecoderCache)
            if context is not None:
                raise ValueError("context cannot be given together with a cache, which holds it")
        elif (context is None) is not (self.cross_attention is None):
            expected = "given" if context is None else "None: this layer has no cross_attention"
            raise ValueError(f"context must be {expected}")
