"""DistilBERT: BERT without segments and without a pooler."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from jax_attn.functional.activations import ACTIVATIONS
from jax_attn.models.part import Part
from jax_attn.nn.layers.stack import Stack
from jax_attn.nn.positions.sinusoidal import sinusoids
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
from jax_attn.weights.family import Family, Settings, normal_weights

# What BERT's config.json calls each attribute.
BERTS = {
    "dim": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "hidden_dim": "intermediate_size",
    "activation": "hidden_act",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
}
ALIASES = ("hidden_size", "num_hidden_layers", "num_attention_heads")  # which transformers reads here too
EPS = 1e-12  # whatever config.json says


def as_berts(config: dict[str, Any]) -> dict[str, Any]:
    """The attributes by the names that BERT gives them.

    Raises:
        ValueError: the file has one by BERT's name, which transformers passes over, or by both and they differ.
    """
    for own, name in BERTS.items():
        if name in config and (name not in ALIASES or config[name] != config.get(own, config[name])):
            raise ValueError(f"{name}={config[name]!r} is not supported, DistilBERT's is {own}")
    return task_settings({BERTS.get(name, name): value for name, value in config.items()})


NAMES = (
    *EMBEDDING_NAMES,
    (r"\bencoder\.layers\.", "transformer.layer."),
    (r"\battention\.(q|k|v|out)_proj\.", r"attention.\1_lin."),
    (r"\battention_norm\.", "sa_layer_norm."),
    (r"\bfeed_forward\.up\.", "ffn.lin1."),
    (r"\bfeed_forward\.down\.", "ffn.lin2."),
    (r"\bfeed_forward_norm\.", "output_layer_norm."),
)
CLASSIFIER = ((r"^head\.dense\.", "pre_classifier."), (r"^head\.linear\.", "classifier."))
VOCABULARY = (
    (r"^head\.dense\.", "vocab_transform."),
    (r"^head\.norm\.", "vocab_layer_norm."),
    (r"^head\.(tied_)?decoder\.", "vocab_projector."),
)


def encoder(config: Settings) -> Part:
    """The model without a head; what its attention gives is not dropped."""
    layer = post_norm_layer(config, 0.0, config.hidden_dropout_prob)
    layers = Part(Stack, layers=[layer] * config.num_hidden_layers, scan=config.scan, remat=config.remat)
    return text_encoder(config, layers, num_segments=0)


def draw(module: Any, config: Mapping[str, Any]) -> None:
    """The initial weights; positions may start as waves, which are trained from there."""
    normal_weights(module, config)
    if config.get("sinusoidal_pos_embds"):
        table = getattr(module, "model", module).embeddings.position.embedding
        table.set_value(jnp.asarray(sinusoids(*table.shape), table.dtype))


DISTILBERT = Family(
    name="DistilBert",
    model_types=("distilbert",),
    rules=ConfigRules(
        defaults={**DEFAULTS, "num_hidden_layers": 6},
        choices={"hidden_act": tuple(ACTIVATIONS), "layer_norm_eps": (EPS,)},
        optional=("pad_token_id",),
        neutral=(
            *BERTS,  # are overrides by these names, and read by BERT's
            "classifier_dropout",
            "qa_dropout",
            "seq_classif_dropout",
            "sinusoidal_pos_embds",
            "tie_weights_",
        ),
        prepare=as_berts,
        called={name: own for own, name in BERTS.items()},
    ),
    build=encoder,
    names=NAMES,
    anchor="embeddings.token.weight",
    heads={
        "DistilBertForSequenceClassification": sequence_classification(
            CLASSIFIER, dropout="seq_classif_dropout", dense=True, activation="relu", input_dropout=0.0
        ),
        "DistilBertForTokenClassification": token_classification(),
        "DistilBertForQuestionAnswering": question_answering(dropout="qa_dropout"),
        "DistilBertForMaskedLM": masked_lm(VOCABULARY, ()),
    },
    prefix="distilbert.",
    constants=CONSTANTS,
    others=("vocab_", "pre_classifier.", "classifier.", "qa_outputs."),
    draw=draw,
)
