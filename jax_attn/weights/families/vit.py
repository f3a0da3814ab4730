"""ViT: a pre-norm encoder of the patches of an image."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jax_attn.functional.activations import ACTIVATIONS
from jax_attn.models.part import Part
from jax_attn.models.task_model import TaskModel
from jax_attn.models.vision_transformer import VisionTransformer
from jax_attn.nn.attention.multi_head import MultiHeadAttention
from jax_attn.nn.layers.classification_head import ClassificationHead
from jax_attn.nn.layers.encoder_layer import EncoderLayer
from jax_attn.nn.layers.patch_embeddings import PatchEmbeddings
from jax_attn.nn.layers.pooler import Pooler
from jax_attn.nn.layers.stack import Stack
from jax_attn.nn.primitives import LayerNorm
from jax_attn.weights.config import ConfigRules
from jax_attn.weights.family import (
    INITIALIZER_RANGE,
    Family,
    Head,
    Settings,
    initializer_range,
    normal_weights,
)

DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "layer_norm_eps": 1e-12,
    "image_size": (224, 224),
    "patch_size": (16, 16),
    "num_channels": 3,
    "qkv_bias": True,
    "pooler_act": "tanh",
}


def in_pairs(config: dict[str, Any]) -> dict[str, Any]:
    """Height and width, where the file has one number for both."""
    if "num_labels" not in config and config.get("id2label"):
        config["num_labels"] = len(config["id2label"])
    for name in ("image_size", "patch_size"):
        size = config.get(name)
        if type(size) is int:
            config[name] = size, size
        elif isinstance(size, list):
            config[name] = tuple(size)
    return config


def with_square_pooler(config: dict[str, Any]) -> dict[str, Any]:
    """Pairs, and no width of the pooler where it is that of the model, which is the one that is supported."""
    if config.get("pooler_output_size") == config.get("hidden_size", DEFAULTS["hidden_size"]):
        config.pop("pooler_output_size")
    return in_pairs(config)


def attention(config: Settings) -> Part:
    """The attention of each layer."""
    return Part(
        MultiHeadAttention,
        embed_dim=config.hidden_size,
        num_heads=config.num_attention_heads,
        dropout=config.attention_probs_dropout_prob,
        bias=("q", "k", "v", "out") if config.qkv_bias else ("out",),
    )


def encoder(layer: Part, config: Settings) -> Part:
    """As many of these layers, and a norm behind the last."""
    return Part(
        Stack,
        layers=[layer] * config.num_hidden_layers,
        norm=Part(LayerNorm, normalized_shape=config.hidden_size, eps=config.layer_norm_eps),
        scan=config.scan,
        remat=config.remat,
    )


def model(config: Settings) -> Part:
    """The model without a head."""
    layer = Part(
        EncoderLayer,
        embed_dim=config.hidden_size,
        hidden_dim=config.intermediate_size,
        activation=config.hidden_act,
        norm_placement="pre",
        dropout=config.hidden_dropout_prob,
        eps=config.layer_norm_eps,
        attention=attention(config),
    )
    return Part(
        VisionTransformer,
        embeddings=Part(
            PatchEmbeddings,
            image_size=config.image_size,
            patch_size=config.patch_size,
            num_channels=config.num_channels,
            embed_dim=config.hidden_size,
            dropout=config.hidden_dropout_prob,
        ),
        encoder=encoder(layer, config),
        pooler=Part(Pooler, embed_dim=config.hidden_size, activation=config.pooler_act)
        if config.add_pooling_layer
        else None,
    )


def classifier(model: Part, config: Settings) -> Part:
    """The classifier of images, by the class token."""
    head = Part(ClassificationHead, embed_dim=config.hidden_size, num_classes=config.num_labels)
    return Part(TaskModel, model=model, head=head)


def draw(module: Any, config: Mapping[str, Any]) -> None:
    """The initial weights: positions and the class token are as wide as the rest, and registers start at 0."""
    normal_weights(module, config)
    embeddings = getattr(module, "model", module).embeddings
    for own in (embeddings.class_token, embeddings.position):
        own.set_value(initializer_range(config) / INITIALIZER_RANGE * own[...])
    if embeddings.registers is not None:
        embeddings.registers.set_value(jnp.zeros_like(embeddings.registers[...]))


# What an image has to do with its tensors' names is the same in all families of vision.
PATCH_NAMES = (
    (r"\bembeddings\.class_token$", "embeddings.cls_token"),
    (r"\bembeddings\.position$", "embeddings.position_embeddings"),
    (r"\bembeddings\.projection\.", "embeddings.patch_embeddings.projection."),
    (r"\bencoder\.norm\.", "layernorm."),
    (r"\bencoder\.layers\.", "encoder.layer."),
    (r"\battention\.q_proj\.", "attention.attention.query."),
    (r"\battention\.k_proj\.", "attention.attention.key."),
    (r"\battention\.v_proj\.", "attention.attention.value."),
    (r"\battention\.out_proj\.", "attention.output.dense."),
)
NAMES = (
    *PATCH_NAMES,
    (r"\battention_norm\.", "layernorm_before."),
    (r"\bfeed_forward_norm\.", "layernorm_after."),
    (r"\bfeed_forward\.up\.", "intermediate.dense."),
    (r"\bfeed_forward\.down\.", "output.dense."),
)
CLASSIFIER_NAMES = ((r"^head\.linear\.", "classifier."),)

VIT = Family(
    name="ViT",
    model_types=("vit",),
    rules=ConfigRules(
        defaults=DEFAULTS,
        choices={"hidden_act": tuple(ACTIVATIONS), "pooler_act": tuple(ACTIVATIONS)},
        ordinary={"pooler_output_size": None},
        neutral=("encoder_stride",),
        prepare=with_square_pooler,
    ),
    build=model,
    names=NAMES,
    anchor="embeddings.position",
    heads={
        "ViTForImageClassification": Head(
            classifier, CLASSIFIER_NAMES, {"add_pooling_layer": False}, {"num_labels": 2}
        )
    },
    prefix="vit.",
    optional={"add_pooling_layer": "pooler.dense.weight"},
    constants=("embeddings.mask_token",),  # of pre-training
    others=("classifier.", "decoder."),
    draw=draw,
)
