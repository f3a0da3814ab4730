"""Gemma 2: norms on both sides of a branch, capped scores, and a window in every other layer."""

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
    "vocab_size": 256000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "attention_bias": False,
    "query_pre_attn_scalar": 256.0,
    "sliding_window": 4096,
    "layer_types": None,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
}
NORM = "rms_unit_offset"


def decoder(config: Settings) -> Part:
    """The model without its head."""
    if not config.query_pre_attn_scalar:
        raise ValueError("query_pre_attn_scalar must be above 0, got 0")
    layer = partial(
        gated_layer,
        config,
        activation=config.hidden_activation,
        norm=NORM,
        norm_placement="sandwich",
        bias=config.attention_bias,
        scale=config.query_pre_attn_scalar**-0.5,
        softcap=config.attn_logit_softcapping,
    )
    types = [(SLIDING, FULL)[index % 2] for index in range(config.num_hidden_layers)]
    return gated_decoder(config, layer, windows_of(config, types), NORM, scaled=True)


GEMMA2 = Family(
    name="Gemma2",
    model_types=("gemma2",),
    rules=decoder_rules(
        DEFAULTS,
        nullable={"attn_logit_softcapping": float, "final_logit_softcapping": float},
        ordinary={"use_bidirectional_attention": False},
        neutral=("hidden_act",),  # beside hidden_activation, which decides
        activation="hidden_activation",
    ),
    build=decoder,
    names=(
        (r"\bfeed_forward_norm\.", "pre_feedforward_layernorm."),
        (r"\bfeed_forward_output_norm\.", "post_feedforward_layernorm."),
        (r"\battention_output_norm\.", "post_attention_layernorm."),
        *NAMES,
    ),
    anchor="embeddings.token.weight",
    heads=decoder_heads("Gemma2"),
    prefix="model.",
    constants=CONSTANTS,
    others=OTHERS,
)
