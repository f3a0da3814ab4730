"""Qwen 2 and 3: Llamas with biases in their queries, keys and values, or with norms of their queries and keys."""

from dataclasses import replace
from functools import partial
from typing import Any

from jax_attn.models.part import Part
from jax_attn.weights.families.decoder_heads import OTHERS, decoder_heads
from jax_attn.weights.families.decoder_parts import (
    CONSTANTS,
    FULL,
    NAMES,
    SLIDING,
    decoder_rules,
    gated_decoder,
    gated_layer,
    windows_of,
)
from jax_attn.weights.family import Family, Settings

DEFAULTS: dict[str, Any] = {
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "sliding_window": 4096,
    "max_window_layers": 28,
    "layer_types": None,
}


def qwen2(config: Settings) -> Part:
    """Qwen 2 without its head."""
    return decoder(config, bias=("q", "k", "v"))


def qwen3(config: Settings) -> Part:
    """Qwen 3 without its head."""
    return decoder(config, bias=config.attention_bias, qk_norm="rms", qk_norm_eps=config.rms_norm_eps)


def decoder(config: Settings, **attention: Any) -> Part:
    """A decoder whose last layers may see a window."""
    sliding = config.use_sliding_window and config.sliding_window is not None
    types = [
        SLIDING if sliding and layer >= (config.max_window_layers or 0) else FULL
        for layer in range(config.num_hidden_layers)
    ]
    if not config.use_sliding_window:
        config.sliding_window = None
    return gated_decoder(config, partial(gated_layer, config, **attention), windows_of(config, types))


QWEN2 = Family(
    name="Qwen2",
    model_types=("qwen2",),
    rules=decoder_rules({**DEFAULTS}, ordinary={"mlp_bias": False, "use_mrope": False}),
    build=qwen2,
    names=NAMES,
    anchor="embeddings.token.weight",
    heads=decoder_heads("Qwen2", span_prefix="transformer."),
    prefix="model.",
    constants=CONSTANTS,
    others=OTHERS,
)
QWEN3 = replace(
    QWEN2,
    name="Qwen3",
    model_types=("qwen3",),
    rules=decoder_rules({**DEFAULTS, "head_dim": 128, "attention_bias": False}),
    build=qwen3,
    heads=decoder_heads("Qwen3", span_prefix="transformer."),
)
