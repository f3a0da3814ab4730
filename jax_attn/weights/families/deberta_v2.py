"""DeBERTa-v2 and v3: disentangled attention, whose table of relative positions all layers share."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from jax_attn.functional.activations import ACTIVATIONS
from jax_attn.models.part import Part
from jax_attn.models.task_model import TaskModel
from jax_attn.nn.attention.disentangled import DisentangledAttention
from jax_attn.nn.layers.classification_head import ClassificationHead
from jax_attn.nn.layers.convolution_layer import ConvolutionLayer
from jax_attn.nn.layers.disentangled_encoder import DisentangledEncoder
from jax_attn.nn.layers.encoder_layer import EncoderLayer
from jax_attn.nn.primitives import Embedding, LayerNorm
from jax_attn.weights.config import ConfigRules
from jax_attn.weights.families import encoder_parts
from jax_attn.weights.families.encoder_heads import (
    masked_lm,
    question_answering,
    task_settings,
    token_classification,
)
from jax_attn.weights.family import Family, Head, Settings

DEFAULTS: dict[str, Any] = {
    **encoder_parts.DEFAULTS,
    "vocab_size": 128100,
    "hidden_size": 1536,
    "num_hidden_layers": 24,
    "num_attention_heads": 24,
    "intermediate_size": 6144,
    "type_vocab_size": 0,
    "layer_norm_eps": 1e-7,
    "relative_attention": False,
    "max_relative_positions": 512,
    "position_buckets": None,
    "pos_att_type": (),
    "share_att_key": False,
    "norm_rel_ebd": "none",
    "position_biased_input": True,
    "conv_kernel_size": 0,
    "conv_groups": 1,
    "conv_act": "tanh",
}
POOLER = {"num_labels": 2, "cls_dropout": 0.1, "pooler_dropout": 0.0, "pooler_hidden_act": "gelu"}


def normalised(config: dict[str, Any]) -> dict[str, Any]:
    """What may be left out, is -1 or follows from another attribute, as the model is built from it."""
    config["classifier_dropout"] = None  # is not read
    task_settings(config)
    width, heads = (config.get(name, DEFAULTS[name]) for name in ("hidden_size", "num_attention_heads"))
    for name in ("embedding_size", "pooler_hidden_size"):
        if config.get(name) == width:
            del config[name]
    if config.get("attention_head_size") is not None and config["attention_head_size"] * heads == width:
        del config["attention_head_size"]
    if config.get("cls_dropout") is None:
        config["cls_dropout"] = config["classifier_dropout"]
    if config.get("max_relative_positions", -1) in (None, -1, 0):
        config["max_relative_positions"] = config.get("max_position_embeddings", 512)
    if config.get("position_buckets", -1) in (-1, 0):
        config["position_buckets"] = None
    kinds = config.get("pos_att_type") or ()
    kinds = kinds.lower().split("|") if isinstance(kinds, str) else kinds
    config["pos_att_type"] = tuple(kind.strip() for kind in kinds)
    if bool(kinds) != config.get("relative_attention", False):
        raise ValueError(
            f"pos_att_type={kinds!r} is not supported with relative_attention={not kinds}: one needs the other"
        )
    return config


def encoder(config: Settings) -> Part:
    """The model without a head."""
    sizes = {"embed_dim": config.hidden_size}
    span = config.max_relative_positions if config.position_buckets is None else config.position_buckets
    attention = Part(
        DisentangledAttention,
        **sizes,
        num_heads=config.num_attention_heads,
        max_relative_positions=config.max_relative_positions,
        position_buckets=config.position_buckets,
        pos_att_type=config.pos_att_type,
        share_att_key=config.share_att_key,
        dropout=config.attention_probs_dropout_prob,
        position_dropout=config.hidden_dropout_prob,
    )
    layer = Part(
        EncoderLayer,
        **sizes,
        hidden_dim=config.intermediate_size,
        activation=config.hidden_act,
        dropout=config.hidden_dropout_prob,
        eps=config.layer_norm_eps,
        attention=attention,
    )
    normed = config.norm_rel_ebd == "layer_norm"
    norm = Part(LayerNorm, normalized_shape=config.hidden_size, eps=config.layer_norm_eps)
    table = Part(Embedding, num_embeddings=2 * span, embedding_dim=config.hidden_size)
    layers = Part(
        DisentangledEncoder,
        layers=[first_layer(layer, config), *[layer] * (config.num_hidden_layers - 1)],
        relative=table if config.relative_attention else None,
        relative_norm=norm if normed else None,
        scan=config.scan,
        remat=config.remat,
    )
    # Without a table of positions nothing ends with it: relative distances are clipped.
    positions = {} if config.position_biased_input else {"positions": None, "max_positions": None}
    unpooled = Settings(**{**vars(config), "add_pooling_layer": False})
    return encoder_parts.text_encoder(unpooled, layers, **positions)


def first_layer(layer: Part, config: Settings) -> Part:
    """The first layer, beside which there may be a convolution."""
    if not config.conv_kernel_size:
        return layer
    return Part(
        ConvolutionLayer,
        layer=layer,
        embed_dim=config.hidden_size,
        kernel_size=config.conv_kernel_size,
        groups=config.conv_groups,
        activation=config.conv_act,
        dropout=config.hidden_dropout_prob,
        eps=config.layer_norm_eps,
    )


def classifier(model: Part, config: Settings) -> Part:
    """The classifier of texts, whose dense layer is called a pooler."""
    head = Part(
        ClassificationHead,
        embed_dim=config.hidden_size,
        num_classes=config.num_labels,
        dropout=config.cls_dropout,
        dense=True,
        activation=config.pooler_hidden_act,
        input_dropout=config.pooler_dropout,
    )
    return Part(TaskModel, model=model, head=head)


NAMES = (
    *encoder_parts.EMBEDDING_NAMES,
    (r"\bencoder\.relative\.", "encoder.rel_embeddings."),
    (r"\bencoder\.relative_norm\.", "encoder.LayerNorm."),
    (r"\bencoder\.layers\.0\.convolution\.", "encoder.conv.conv."),
    (r"\bencoder\.layers\.0\.norm\.", "encoder.conv.LayerNorm."),
    (r"\bencoder\.layers\.0\.layer\.", "encoder.layer.0."),
    (r"\battention\.q_proj\.", "attention.self.query_proj."),
    (r"\battention\.k_proj\.", "attention.self.key_proj."),
    (r"\battention\.v_proj\.", "attention.self.value_proj."),
    (r"\battention\.pos_k_proj\.", "attention.self.pos_key_proj."),
    (r"\battention\.pos_q_proj\.", "attention.self.pos_query_proj."),
    *encoder_parts.LAYER_NAMES,
)
POOLER_NAMES = ((r"^head\.dense\.", "pooler.dense."), (r"^head\.linear\.", "classifier."))
LM_NAMES = (
    (r"^head\.tied_decoder\.", "lm_predictions.lm_head."),
    (r"^head\.norm\.", "lm_predictions.lm_head.LayerNorm."),
    (r"^head\.", "lm_predictions.lm_head."),
)

DEBERTA = Family(
    name="DebertaV2",
    model_types=("deberta-v2",),
    rules=ConfigRules(
        defaults=DEFAULTS,
        optional=("pad_token_id", "type_vocab_size", "conv_kernel_size", "position_buckets"),
        choices={
            "hidden_act": tuple(ACTIVATIONS),
            "conv_act": tuple(ACTIVATIONS),
            "norm_rel_ebd": ("none", "layer_norm"),
            "pos_att_type": ((), ("c2p",), ("p2c",), ("c2p", "p2c"), ("p2c", "c2p")),
            "pooler_hidden_act": tuple(ACTIVATIONS),
        },
        ordinary={"embedding_size": None, "pooler_hidden_size": None, "attention_head_size": None},
        neutral=("classifier_dropout", "legacy", *POOLER),
        prepare=normalised,
    ),
    build=encoder,
    names=NAMES,
    anchor="embeddings.token.weight",
    heads={
        "DebertaV2ForSequenceClassification": Head(
            classifier, POOLER_NAMES, {"add_pooling_layer": False}, POOLER
        ),
        "DebertaV2ForTokenClassification": token_classification(),
        "DebertaV2ForQuestionAnswering": question_answering(),
        "DebertaV2ForMaskedLM": masked_lm(),
    },
    prefix="deberta.",
    constants=encoder_parts.CONSTANTS,
    others=("classifier.", "cls.", "lm_predictions.", "mask_predictions.", "pooler.", "qa_outputs."),
)


def table(legacy: bool, biased: bool) -> Family:
    """The table for files with these values: the masked LM is in one of two places, positions may be unused."""
    unused = () if biased else ("embeddings.position_embeddings.weight",)
    heads = DEBERTA.heads if legacy else {**DEBERTA.heads, "DebertaV2ForMaskedLM": LM}

    def means(config: Mapping[str, Any]) -> bool:
        return (config.get("legacy", True), config.get("position_biased_input", True)) == (legacy, biased)

    return replace(DEBERTA, heads=heads, means=means, constants=(*DEBERTA.constants, *unused))


# The one that is always tied.
LM = replace(masked_lm(LM_NAMES), settings={"add_pooling_layer": False, "tie_word_embeddings": True})
DEBERTA_FAMILIES = tuple(table(legacy, biased) for legacy in (True, False) for biased in (True, False))
