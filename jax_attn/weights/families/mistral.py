"""Mistral: a Llama whose layers see a window."""

from functools import partial
from typing import Any

from jax_attn.models.part import Part
from jax_attn.weights.families.decoder_heads import OTHERS, decoder_heads
from jax_attn.weights.families.decoder_parts import (
    CONSTANTS,
    NAMES,
    decoder_rules,
    gated_decoder,
    gated_layer,
)
from jax_attn.weights.family import Family, Settings

DEFAULTS: dict[str, Any] = {
    "intermediate_size": 14336,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "sliding_window": 4096,
}


def decoder(config: Settings) -> Part:
    """The model without its head."""
    windows = [config.sliding_window] * config.num_hidden_layers
    return gated_decoder(config, partial(gated_layer, config, bias=False), windows)


MISTRAL = Family(
    name="Mistral",
    model_types=("mistral",),
    rules=decoder_rules(DEFAULTS, ordinary={"attention_bias": False, "mlp_bias": False}),
    build=decoder,
    names=NAMES,
    anchor="embeddings.token.weight",
    heads=decoder_heads("Mistral"),
    prefix="model.",
    constants=CONSTANTS,
    others=OTHERS,
)
