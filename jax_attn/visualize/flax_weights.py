"""The attention weights of flax's own `nnx.MultiHeadAttention`, which gives none unless its caller asks."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from flax import nnx
from flax.nnx.nn.attention import dot_product_attention, dot_product_attention_weights
from jaxtyping import Array

from jax_attn.nn.attention.weights import keep_scored, keep_weights

SCORING = ("mask", "dtype", "precision", "is_causal")  # the options of a call that the weights depend on


@contextmanager
def flax_weights_kept() -> Generator[None]:
    """Within it flax's attentions keep their weights, as ours do, for who captures them.

    One that is given a function of its own keeps none: what that makes of its scores is not known.
    """
    call = nnx.MultiHeadAttention.__call__

    def keeping(self: nnx.MultiHeadAttention, *args: Any, **kwargs: Any) -> Any:
        attention = self.attention_fn
        if attention is not dot_product_attention:
            return call(self, *args, **kwargs)

        def kept(query: Array, key: Array, *rest: Any, **options: Any) -> Array:
            scoring = {name: options[name] for name in SCORING if name in options}
            keep_weights(self, dot_product_attention_weights(query, key, deterministic=True, **scoring))
            keep_scored(self, query, key, None)
            return attention(query, key, *rest, **options)

        self.attention_fn = kept
        try:
            return call(self, *args, **kwargs)
        finally:
            self.attention_fn = attention

    nnx.MultiHeadAttention.__call__ = keeping
    try:
        yield
    finally:
        nnx.MultiHeadAttention.__call__ = call
