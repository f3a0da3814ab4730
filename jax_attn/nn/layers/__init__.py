"""Layers: embeddings, feed-forward, encoder, decoder, poolers and heads."""

from jax_attn.functional.deepnorm import deepnorm_scales
from jax_attn.nn.layers.classification_head import ClassificationHead
from jax_attn.nn.layers.decoder import Decoder
from jax_attn.nn.layers.decoder_layer import DecoderCache, DecoderLayer
from jax_attn.nn.layers.drop_path import DropPath
from jax_attn.nn.layers.embeddings import Embeddings
from jax_attn.nn.layers.encoder import Encoder
from jax_attn.nn.layers.encoder_layer import EncoderLayer
from jax_attn.nn.layers.feed_forward import FeedForward
from jax_attn.nn.layers.gated_feed_forward import GatedFeedForward
from jax_attn.nn.layers.layer_scale import LayerScale
from jax_attn.nn.layers.mixture_of_experts import MixtureOfExperts, RouterLosses
from jax_attn.nn.layers.pooler import Pooler
from jax_attn.nn.layers.stack import Stack

__all__ = [
    "ClassificationHead",
    "Decoder",
    "DecoderCache",
    "DecoderLayer",
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
    "Stack",
    "deepnorm_scales",
]


def __dir__() -> list[str]:
    return __all__
