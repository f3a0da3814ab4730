"""Llama 2 and 3: RMS norms, rotary positions, grouped queries and a gated feed-forward."""

from functools import partial

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


def decoder(config: Settings) -> Part:
    """The model without its head."""
    layer = partial(gated_layer, config, bias=config.attention_bias, mlp_bias=config.mlp_bias)
    return gated_decoder(config, layer)


LLAMA = Family(
    name="Llama",
    model_types=("llama",),
    rules=decoder_rules({"attention_bias": False, "mlp_bias": False}, neutral=("is_llama_config",)),
    build=decoder,
    names=NAMES,
    anchor="embeddings.token.weight",
    heads=decoder_heads("Llama", span_prefix="transformer."),
    prefix="model.",
    constants=CONSTANTS,
    others=OTHERS,
)
