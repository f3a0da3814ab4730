"""The torch twins: layers: embeddings, feed-forward, encoder, poolers and heads."""

from torch_ref.nn.layers.classification_head import ClassificationHead
from torch_ref.nn.layers.drop_path import DropPath
from torch_ref.nn.layers.embeddings import Embeddings
from torch_ref.nn.layers.encoder import Encoder
from torch_ref.nn.layers.encoder_layer import EncoderLayer
from torch_ref.nn.layers.feed_forward import FeedForward
from torch_ref.nn.layers.gated_feed_forward import GatedFeedForward
from torch_ref.nn.layers.layer_scale import LayerScale
from torch_ref.nn.layers.mixture_of_experts import MixtureOfExperts, RouterLosses
from torch_ref.nn.layers.pooler import Pooler

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
