"""Layers: embeddings, feed-forward, encoder, poolers and heads."""

from jax_attn.functional.deepnorm import deepnorm_scales
from jax_attn.nn.layers.causal_lm_head import CausalLMHead
from jax_attn.nn.layers.classification_head import ClassificationHead
from jax_attn.nn.layers.convolution_layer import ConvolutionLayer
from jax_attn.nn.layers.convolution_stem import ConvolutionStem
from jax_attn.nn.layers.decoder import Decoder
from jax_attn.nn.layers.decoder_layer import DecoderCache, DecoderLayer
from jax_attn.nn.layers.disentangled_encoder import DisentangledEncoder
from jax_attn.nn.layers.drop_path import DropPath
from jax_attn.nn.layers.embeddings import Embeddings
from jax_attn.nn.layers.encoder import Encoder
from jax_attn.nn.layers.encoder_layer import EncoderLayer
from jax_attn.nn.layers.feed_forward import FeedForward
from jax_attn.nn.layers.gated_feed_forward import GatedFeedForward
from jax_attn.nn.layers.image_classification_head import ImageClassificationHead
from jax_attn.nn.layers.layer_scale import LayerScale
from jax_attn.nn.layers.masked_lm_head import MaskedLMHead
from jax_attn.nn.layers.mixture_of_experts import MixtureOfExperts
from jax_attn.nn.layers.patch_embeddings import PatchEmbeddings
from jax_attn.nn.layers.pooler import Pooler
from jax_attn.nn.layers.regression_head import RegressionHead
from jax_attn.nn.layers.router_losses import RouterLosses, capture_router_losses, router_loss
from jax_attn.nn.layers.span_head import SpanHead, SpanLogits
from jax_attn.nn.layers.stack import Stack
from jax_attn.nn.layers.tied_head import TiedHead
from jax_attn.nn.layers.token_classification_head import TokenClassificationHead
from jax_attn.nn.layers.transformed_head import TransformedHead

__all__ = [
    "CausalLMHead",
    "ClassificationHead",
    "ConvolutionLayer",
    "ConvolutionStem",
    "Decoder",
    "DecoderCache",
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
    "deepnorm_scales",
    "router_loss",
]


def __dir__() -> list[str]:
    return __all__
