"""The torch twins: layers: embeddings, feed-forward, encoder, poolers and heads."""

from torch_ref.nn.layers.causal_lm_head import CausalLMHead
from torch_ref.nn.layers.classification_head import ClassificationHead
from torch_ref.nn.layers.convolution_layer import ConvolutionLayer
from torch_ref.nn.layers.convolution_stem import ConvolutionStem
from torch_ref.nn.layers.decoder import Decoder
from torch_ref.nn.layers.decoder_layer import DecoderLayer
from torch_ref.nn.layers.disentangled_encoder import DisentangledEncoder
from torch_ref.nn.layers.drop_path import DropPath
from torch_ref.nn.layers.embeddings import Embeddings
from torch_ref.nn.layers.encoder import Encoder
from torch_ref.nn.layers.encoder_layer import EncoderLayer
from torch_ref.nn.layers.feed_forward import FeedForward
from torch_ref.nn.layers.gated_feed_forward import GatedFeedForward
from torch_ref.nn.layers.image_classification_head import ImageClassificationHead
from torch_ref.nn.layers.layer_scale import LayerScale
from torch_ref.nn.layers.masked_lm_head import MaskedLMHead
from torch_ref.nn.layers.mixture_of_experts import MixtureOfExperts
from torch_ref.nn.layers.patch_embeddings import PatchEmbeddings
from torch_ref.nn.layers.pooler import Pooler
from torch_ref.nn.layers.regression_head import RegressionHead
from torch_ref.nn.layers.router_losses import RouterLosses, capture_router_losses
from torch_ref.nn.layers.span_head import SpanHead, SpanLogits
from torch_ref.nn.layers.stack import Stack
from torch_ref.nn.layers.tied_head import TiedHead
from torch_ref.nn.layers.token_classification_head import TokenClassificationHead
from torch_ref.nn.layers.transformed_head import TransformedHead

__all__ = [
    "CausalLMHead",
    "ClassificationHead",
    "ConvolutionLayer",
    "ConvolutionStem",
    "Decoder",
    "DecoderLayer",
    "DisentangledEncoder",
    "DropPath",
    "Embeddings",
    "Encoder",
    "EncoderLayer",
    "FeedForward",
    "GatedFeedForward",
    "ImageClassificationHead",
    "LayerScale",
    "MaskedLMHead",
    "MixtureOfExperts",
    "PatchEmbeddings",
    "Pooler",
    "RegressionHead",
    "RouterLosses",
    "SpanHead",
    "SpanLogits",
    "Stack",
    "TiedHead",
    "TokenClassificationHead",
    "TransformedHead",
    "capture_router_losses",
]


def __dir__() -> list[str]:
    return __all__
