"""Pictures of attention: which tokens a model's heads look at, in one page that needs no network.

record = record_text("The cat sat on the mat.")
head_view(record)  # in a notebook; .save("page.html") anywhere
"""

from jax_attn.visualize.capture import record_attention
from jax_attn.visualize.images import record_image
from jax_attn.visualize.page import AttentionPage
from jax_attn.visualize.png import Heatmaps
from jax_attn.visualize.record import AttentionLayer, AttentionRecord, AttentionStack, TokenAxis
from jax_attn.visualize.texts import record_text
from jax_attn.visualize.torch_weights import torch_attention_weights
from jax_attn.visualize.views import head_view, heatmaps, model_view, neuron_view

__all__ = [
    "AttentionLayer",
    "AttentionPage",
    "AttentionRecord",
    "AttentionStack",
    "Heatmaps",
    "TokenAxis",
    "head_view",
    "heatmaps",
    "model_view",
    "neuron_view",
    "record_attention",
    "record_image",
    "record_text",
    "torch_attention_weights",
]


def __dir__() -> list[str]:
    return __all__
