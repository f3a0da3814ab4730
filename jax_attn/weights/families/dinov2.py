"""DINOv2, with registers or without: a ViT whose branches are scaled, and whose head reads patches too."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from jax_attn.functional.activations import ACTIVATIONS
from jax_attn.models.part import Part
from jax_attn.models.task_model import TaskModel
from jax_attn.models.vision_transformer import VisionTransformer
from jax_attn.nn.layers.encoder_layer import EncoderLayer
from jax_attn.nn.layers.feed_forward import FeedForward
from jax_attn.nn.layers.gated_feed_forward import GatedFeedForward
from jax_attn.nn.layers.image_classification_head import ImageClassificationHead
from jax_attn.nn.layers.patch_embeddings import PatchEmbeddings
from jax_attn.nn.layers.pooler import Pooler
from jax_attn.weights.config import ConfigRules
from jax_attn.weights.families.vit import CLASSIFIER_NAMES, PATCH_NAMES, attention, draw, encoder, in_pairs
from jax_attn.weights.family import Family, Head, Settings

DEFAULTS: dict[str, Any] = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "mlp_ratio": 4,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "layer_norm_eps": 1e-6,
    "image_size": (224, 224),
    "patch_size": (14, 14),
    "num_channels": 3,
    "qkv_bias": True,
    "layerscale_value": 1.0,
    "drop_path_rate": 0.0,
    "use_swiglu_ffn": False,
    "use_mask_token": True,
    "num_register_tokens": 0,
}


def model(config: Settings, resize: str = "bicubic") -> Part:
    """The model without a head. (Dropout stands behind the embeddings only.)"""
    layer = Part(
        EncoderLayer,
        embed_dim=config.hidden_size,
        norm_placement="pre",
        eps=config.layer_norm_eps,
        layer_scale=config.layerscale_value,
        drop_path=config.drop_path_rate,
        attention=attention(config),
        feed_forward=feed_forward(config),
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
            num_registers=config.num_register_tokens,
            mask_token=config.use_mask_token,
            resize=resize,
        ),
        encoder=encoder(layer, config),
        pooler=Part(Pooler, embed_dim=config.hidden_size, dense=False),
    )


def feed_forward(config: Settings) -> Part:
    """The feed-forward of each layer; the gated one has two thirds of the width, in eights."""
    width = config.hidden_size * config.mlp_ratio
    if config.use_swiglu_ffn:
        gated = (width * 2 // 3 + 7) // 8 * 8
        return Part(GatedFeedForward, embed_dim=config.hidden_size, hidden_dim=gated, bias=True)
    return Part(FeedForward, embed_dim=config.hidden_size, hidden_dim=width, activation=config.hidden_act)


def is_gated(config: Mapping[str, Any]) -> bool:
    """Whether the feed-forward has a gate, whose tensors have names of their own."""
    return config.get("use_swiglu_ffn") is True


def classifier(model: Part, config: Settings) -> Part:
    """The classifier of images, by the class token and the patches."""
    head = Part(
        ImageClassificationHead,
        embed_dim=config.hidden_size,
        num_classes=config.num_labels,
        num_registers=config.num_register_tokens,
    )
    return Part(TaskModel, model=model, head=head)


NAMES = (
    *PATCH_NAMES,
    (r"\bembeddings\.registers$", "embeddings.register_tokens"),
    (r"\battention_norm\.", "norm1."),
    (r"\bfeed_forward_norm\.", "norm2."),
    (r"\battention_scale\.weight$", "layer_scale1.lambda1"),
    (r"\bfeed_forward_scale\.weight$", "layer_scale2.lambda1"),
)
UNGATED_NAMES = ((r"\bfeed_forward\.up\.", "mlp.fc1."), (r"\bfeed_forward\.down\.", "mlp.fc2."))
GATED_NAMES = (
    (r"\bfeed_forward\.gate\.(\w+)$", r"mlp.weights_in.\1[0]"),
    (r"\bfeed_forward\.up\.(\w+)$", r"mlp.weights_in.\1[1]"),
    (r"\bfeed_forward\.down\.", "mlp.weights_out."),
)

DINOV2 = Family(
    name="Dinov2",
    model_types=("dinov2",),
    rules=ConfigRules(
        defaults=DEFAULTS,
        optional=("num_register_tokens",),
        choices={"hidden_act": tuple(ACTIVATIONS)},
        # What a backbone gives to other models.
        neutral=("apply_layernorm", "out_features", "out_indices", "reshape_hidden_states", "stage_names"),
        prepare=in_pairs,
    ),
    build=model,
    names=(*NAMES, *UNGATED_NAMES),
    anchor="embeddings.position",
    heads={"Dinov2ForImageClassification": Head(classifier, CLASSIFIER_NAMES, defaults={"num_labels": 2})},
    prefix="dinov2.",
    others=("classifier.",),
    draw=draw,
)
REGISTERED = replace(
    DINOV2,
    name="Dinov2WithRegisters",
    build=partial(model, resize="bicubic_antialias"),
    model_types=("dinov2_with_registers",),
    rules=DINOV2.rules.with_defaults({"patch_size": (16, 16), "num_register_tokens": 4}),
    heads={"Dinov2WithRegistersForImageClassification": DINOV2.heads["Dinov2ForImageClassification"]},
    prefix="dinov2_with_registers.",
)
DINOV2_FAMILIES = tuple(
    table
    for family in (DINOV2, REGISTERED)
    for table in (replace(family, names=(*NAMES, *GATED_NAMES), means=is_gated), family)
)
