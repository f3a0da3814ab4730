"""The torch twins of the modules that models are built from."""

from torch_ref.nn.attention import GatedDeltaNet, LinearAttention, MultiHeadAttention
from torch_ref.nn.layers import ClassificationHead, Embeddings, Encoder, EncoderLayer, FeedForward, Pooler
from torch_ref.nn.positions import LearnedPositions, SinusoidalPositions

__all__ = [
    "ClassificationHead",
    "Embeddings",
    "Encoder",
    "EncoderLayer",
    "FeedForward",
    "GatedDeltaNet",
    "LearnedPositions",
    "LinearAttention",
    "MultiHeadAttention",
    "Pooler",
    "SinusoidalPositions",
]


def __dir__() -> list[str]:
    return __all__
