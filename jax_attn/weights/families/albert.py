"""ALBERT: BERT with narrow embeddings, whose layers have their parameters in common."""

from collections import Counter
from typing import Any

from jax_attn.functional.activations import ACTIVATIONS
from jax_attn.models.part import Part
from jax_attn.nn.layers.stack import Stack
from jax_attn.weights.config import ConfigRules
from jax_attn.weights.families.encoder_heads import (
    masked_lm,
    question_answering,
    sequence_classification,
    task_settings,
    token_classification,
)
from jax_attn.weights.families.encoder_parts import (
    CONSTANTS,
    DEFAULTS,
    EMBEDDING_NAMES,
    post_norm_layer,
    text_encoder,
)
from jax_attn.weights.family import Family, Settings

OWN_DEFAULTS = {
    "vocab_size": 30000,
    "hidden_size": 4096,
    "num_attention_heads": 64,
    "intermediate_size": 16384,
    "hidden_act": "gelu_new",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "embedding_size": 128,
    "num_hidden_groups": 1,
    "inner_group_num": 1,
}


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """The dropout before the last layer by the name that BERT gives it."""
    dropout = config.pop("classifier_dropout_prob", 0.1)
    return task_settings({**config, "classifier_dropout": dropout})


NAMES = (
    (r"\bembeddings\.projection\.", "encoder.embedding_hidden_mapping_in."),
    *EMBEDDING_NAMES,
    (r"\bencoder\.layers\.(\d+)\.layers\.", r"encoder.albert_layer_groups.\1.albert_layers."),
    (r"\battention\.q_proj\.", "attention.query."),
    (r"\battention\.k_proj\.", "attention.key."),
    (r"\battention\.v_proj\.", "attention.value."),
    (r"\battention\.out_proj\.", "attention.dense."),
    (r"\battention_norm\.", "attention.LayerNorm."),
    (r"\bfeed_forward\.up\.", "ffn."),
    (r"\bfeed_forward\.down\.", "ffn_output."),
    (r"\bfeed_forward_norm\.", "full_layer_layer_norm."),
    (r"\bpooler\.dense\.", "pooler."),
)
PREDICTIONS = (
    (r"^head\.tied_decoder\.", "predictions."),
    (r"^head\.norm\.", "predictions.LayerNorm."),
    (r"^head\.", "predictions."),
)


def encoder(config: Settings) -> Part:
    """The model without a head: each group of layers runs for as many layers as are in it."""
    layers, groups = config.num_hidden_layers, config.num_hidden_groups
    if groups > layers:
        raise ValueError(f"num_hidden_groups must be at most num_hidden_layers={layers}, got {groups}")
    sizes = Counter(int(layer / (layers / groups)) for layer in range(layers))
    layer = post_norm_layer(config, config.hidden_dropout_prob, 0.0)
    group = {"layers": [layer] * config.inner_group_num, "scan": config.scan, "remat": config.remat}
    stack = Part(Stack, layers=[Part(Stack, repeats=sizes[each], **group) for each in range(groups)])
    return text_encoder(config, stack, embedding_dim=config.embedding_size)


ALBERT = Family(
    name="Albert",
    model_types=("albert",),
    rules=ConfigRules(
        defaults={**DEFAULTS, **OWN_DEFAULTS},
        choices={"hidden_act": tuple(ACTIVATIONS)},
        optional=("pad_token_id",),
        ordinary={"position_embedding_type": "absolute"},
        # All but the first two stand in files of the first release, and nobody reads them.
        neutral=(
            "classifier_dropout",
            "classifier_dropout_prob",
            "down_scale_factor",
            "gap_size",
            "net_structure_type",
            "num_memory_blocks",
            "layers_to_keep",
        ),
        prepare=prepared,
    ),
    build=encoder,
    names=NAMES,
    anchor="embeddings.token.weight",
    heads={
        "AlbertForSequenceClassification": sequence_classification(pooled=True),
        "AlbertForTokenClassification": token_classification(),
        "AlbertForQuestionAnswering": question_answering(),
        "AlbertForMaskedLM": masked_lm(PREDICTIONS, ("predictions.bias", "predictions.decoder.bias")),
    },
    prefix="albert.",
    optional={"add_pooling_layer": "pooler.dense.weight"},
    constants=CONSTANTS,
    others=("predictions.", "sop_classifier.", "classifier.", "qa_outputs."),
)
