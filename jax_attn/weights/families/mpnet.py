"""MPNet: BERT's layers with T5's biases, which all of them share, and RoBERTa's positions."""

from typing import Any

from jax_attn.functional.activations import ACTIVATIONS
from jax_attn.models.part import Part
from jax_attn.nn.layers.encoder_layer import EncoderLayer
from jax_attn.nn.layers.stack import Stack
from jax_attn.nn.positions.learned import LearnedPositions
from jax_attn.nn.positions.t5 import T5Positions
from jax_attn.weights.config import ConfigRules
from jax_attn.weights.families import encoder_parts
from jax_attn.weights.families.encoder_heads import (
    DENSE_CLASSIFIER,
    LM_HEAD,
    masked_lm,
    question_answering,
    sequence_classification,
    task_settings,
    token_classification,
)
from jax_attn.weights.family import Family, Settings

DEFAULTS: dict[str, Any] = {**encoder_parts.DEFAULTS, "vocab_size": 30527}
del DEFAULTS["type_vocab_size"], DEFAULTS["pad_token_id"]
PADDING = 1  # whatever pad_token_id says
BUCKETS = 32  # whatever relative_attention_num_buckets says


def labels(config: dict[str, Any]) -> dict[str, Any]:
    """What heads are built from; the dropout before their last layer has no attribute of its own."""
    return task_settings({**config, "classifier_dropout": None})


def encoder(config: Settings) -> Part:
    """The model without a head."""
    layer = Part(
        EncoderLayer,
        embed_dim=config.hidden_size,
        num_heads=config.num_attention_heads,
        hidden_dim=config.intermediate_size,
        activation=config.hidden_act,
        dropout=config.hidden_dropout_prob,
        attention_dropout=config.attention_probs_dropout_prob,
        eps=config.layer_norm_eps,
    )
    layers = Part(
        Stack,
        layers=[layer] * config.num_hidden_layers,
        positions=Part(T5Positions, num_heads=config.num_attention_heads, num_buckets=BUCKETS),
        scan=config.scan,
        remat=config.remat,
    )
    rows = config.max_position_embeddings
    positions = Part(
        LearnedPositions,
        num_embeddings=rows,
        embedding_dim=config.hidden_size,
        offset=PADDING + 1,
        padding_idx=PADDING,
    )
    settings = Settings(**vars(config), type_vocab_size=0, pad_token_id=PADDING)
    return encoder_parts.text_encoder(
        settings, layers, max_positions=rows - PADDING - 1, positions=positions, skip_padding=True
    )


NAMES = (
    *encoder_parts.EMBEDDING_NAMES,
    (r"\bencoder\.positions\.table\.", "encoder.relative_attention_bias."),
    (r"\battention\.(q|k|v)_proj\.", r"attention.attn.\1."),
    (r"\battention\.out_proj\.", "attention.attn.o."),
    (r"\battention_norm\.", "attention.LayerNorm."),
    *encoder_parts.LAYER_NAMES,
)

MPNET = Family(
    name="MPNet",
    model_types=("mpnet",),
    rules=ConfigRules(
        defaults=DEFAULTS,
        choices={"hidden_act": tuple(ACTIVATIONS)},
        ordinary={"relative_attention_num_buckets": BUCKETS},
        neutral=("classifier_dropout", "pad_token_id"),
        prepare=labels,
    ),
    build=encoder,
    names=NAMES,
    anchor="embeddings.token.weight",
    heads={
        "MPNetForSequenceClassification": sequence_classification(DENSE_CLASSIFIER, dense=True),
        "MPNetForTokenClassification": token_classification(),
        "MPNetForQuestionAnswering": question_answering(),
        "MPNetForMaskedLM": masked_lm(LM_HEAD, ("lm_head.bias", "lm_head.decoder.bias"), "gelu"),
    },
    prefix="mpnet.",
    optional={"add_pooling_layer": "pooler.dense.weight"},
    constants=encoder_parts.CONSTANTS,
    others=("classifier.", "lm_head.", "qa_outputs."),
)
