"""The torch twins of the modules that models are built from."""

from torch_ref.nn.attention import (AdditiveAttention, AttentionPooling, DifferentialAttention, DisentangledAttention, FourierMixing, GatedDeltaNet, LatentAttention, LinearAttention, LinformerAttention, MultiHeadAttention, MultiplicativeAttention, NystromAttention, PerformerAttention, RelativeAttention, TalkingHeads,)
from torch_ref.nn.layers import (CausalLMHead, ClassificationHead, ConvolutionStem, Decoder, DecoderLayer, DropPath, Embeddings, Encoder, EncoderLayer, FeedForward, GatedFeedForward, LayerScale, MaskedLMHead, MixtureOfExperts, PatchEmbeddings, Pooler, RegressionHead, RouterLosses, SpanHead, SpanLogits, Stack, TiedHead, TokenClassificationHead,)
from torch_ref.nn.positions import (AlibiPositions, AttentionPositions, AxialRotaryPositions, DynamicNTKScaling, LearnedPositions, LinearScaling, Llama3Scaling, LongRopeScaling, RotaryPositions, RotaryScaling, ShawPositions, SinusoidalPositions, T5Positions, YarnScaling,)
from torch_ref.nn.primitives import (RMSNorm, make_norm,)

__all__ = [
    "AdditiveAttention",
    "AlibiPositions",
    "AttentionPooling",
    "AttentionPositions",
    "AxialRotaryPositions",
    "CausalLMHead",
    "ClassificationHead",
    "ConvolutionStem",
    "Decoder",
    "DecoderLayer",
    "DifferentialAttention",
    "DisentangledAttention",
    "DropPath",
    "DynamicNTKScaling",
    "Embeddings",
    "Encoder",
    "EncoderLayer",
    "FeedForward",
    "FourierMixing",
    "GatedDeltaNet",
    "GatedFeedForward",
    "LatentAttention",
    "LayerScale",
    "LearnedPositions",
    "LinearAttention",
    "LinearScaling",
    "LinformerAttention",
    "Llama3Scaling",
    "LongRopeScaling",
    "MaskedLMHead",
    "MixtureOfExperts",
    "MultiHeadAttention",
    "MultiplicativeAttention",
    "NystromAttention",
    "PatchEmbeddings",
    "PerformerAttention",
    "Pooler",
    "RMSNorm",
    "RegressionHead",
    "RelativeAttention",
    "RotaryPositions",
    "RotaryScaling",
    "RouterLosses",
    "ShawPositions",
    "SinusoidalPositions",
    "SpanHead",
    "SpanLogits",
    "Stack",
    "T5Positions",
    "TalkingHeads",
    "TiedHead",
    "TokenClassificationHead",
    "YarnScaling",
    "make_norm",
]


def __dir__() -> list[str]:
    return __all__
