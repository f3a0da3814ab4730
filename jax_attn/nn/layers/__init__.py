"""Layers: embeddings, feed-forward, encoder, poolers and heads."""

from jax_attn.nn.layers.classification_head import ClassificationHead
from jax_attn.nn.layers.drop_path import DropPath
from jax_attn.nn.layers.embeddings import Embeddings
from jax_attn.nn.layers.encoder import Encoder
from jax_attn.nn.layers.encoder_layer import EncoderLayer
from jax_attn.nn.layers.feed_forward import FeedForward
from jax_attn.nn.layers.gated_feed_forward import GatedFeedForward
from jax_attn.nn.layers.layer_scale import LayerScale
from jax_attn.nn.layers.mixture_of_experts import MixtureOfExperts, RouterLosses
from jax_attn.nn.layers.pooler import Pooler

__all__ = [
    "ClassificationHead",
    "DropPath",
    "Embeddings",
    "Encoder",
    "EncoderLayer",
    "FeedForward",
    "GatedFeedForward",
    "LayerScale",
    "MixtureOfExperts",
    "Pooler",
    "RouterLosses",
]


def __dir__() -> list[str]:
    return __all__
