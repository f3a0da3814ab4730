"""BERT checkpoints as Hugging Face lays them out: what their config says, what their tensors are called."""

from typing import Any

from flax import nnx

from jax_attn.models.bert import Bert
from jax_attn.models.part import Part
from jax_attn.models.sequence_classifier import SequenceClassifier
from jax_attn.nn.layers.embeddings import POSITIONS
from jax_attn.nn.layers.encoder_layer import NORM_PLACEMENTS
from jax_attn.nn.layers.feed_forward import ACTIVATIONS
from jax_attn.weights.config import ConfigRules
from jax_attn.weights.families.encoder_heads import (
    LABELS,
    TASK_SETTINGS,
    masked_lm,
    question_answering,
    sequence_classification,
    task_settings,
    token_classification,
)
from jax_attn.weights.families.encoder_parts import CONSTANTS, DEFAULTS, EMBEDDING_NAMES, LAYER_NAMES
from jax_attn.weights.family import Family, Head, Settings

MODEL_TYPE = "bert"
OWN_MODEL_TYPE = "jax_attn_bert"  # what Hugging Face's BERT cannot compute must not be taken for it

OWN_DEFAULTS = {"norm_placement": "post", "positions": "learned"}

RULES = ConfigRules(
    defaults={**DEFAULTS, **OWN_DEFAULTS},
    choices={
        "hidden_act": tuple(ACTIVATIONS),
        "norm_placement": NORM_PLACEMENTS,
        "positions": tuple(POSITIONS),
    },
    optional=("pad_token_id",),
    ordinary={"position_embedding_type": "absolute"},
    # The pooler_* and directionality stand in files from the first TensorFlow release, and nobody reads them.
    neutral=(
        "classifier_dropout",
        "directionality",
        "pooler_fc_size",
        "pooler_num_attention_heads",
        "pooler_num_fc_layers",
        "pooler_size_per_head",
        "pooler_type",
    ),
    prepare=task_settings,
)

NAMES = (*EMBEDDING_NAMES, *LAYER_NAMES)
# What the first checkpoints, converted from TensorFlow, call the weight and the bias of a layer norm.
OLD_NAMES = ((r"\bLayerNorm\.weight$", "LayerNorm.gamma"), (r"\bLayerNorm\.bias$", "LayerNorm.beta"))

GELU_TANH = "gelu_pytorch_tanh"  # Hugging Face's name for our "gelu_tanh"


def encoder(config: Settings) -> Part:
    """The model without a head."""
    others = {*TASK_SETTINGS} - {*RULES.defaults}
    given = {name: value for name, value in vars(config).items() if name not in others}
    return Part(Bert, **given, initializer_range=None)  # the loader draws the weights of all families


def own_classifier(model: Part, config: Settings) -> Part:
    """A `SequenceClassifier`. (Hugging Face's has a pooler before its head: another model.)"""
    given = {name: value for name, value in model.arguments.items() if name != "add_pooling_layer"}
    dropout = config.classifier_dropout
    return Part(SequenceClassifier, num_classes=config.num_labels, classifier_dropout=dropout, **given)


def describe(module: Any) -> dict[str, Any] | None:
    """The `config.json` of a `Bert` or a `SequenceClassifier`, read off the module; None of another."""
    if type(module) is SequenceClassifier:
        return describe_classifier(module)
    return describe_bert(module) if type(module) is Bert else None


def describe_bert(bert: Bert) -> dict[str, Any]:
    """The `config.json` of a `Bert`."""
    embeddings = bert.embeddings
    layers: Any = bert.encoder.layers
    stacked = bool(bert.encoder.stacked)
    layer = layers if stacked else layers[0]
    activation = layer.feed_forward.activation
    positions = "learned" if isinstance(embeddings.position, nnx.Embed) else "sinusoidal"
    own = {"norm_placement": layer.norm_placement, "positions": positions}
    ordinary = own == OWN_DEFAULTS
    return {
        "architectures": ["BertModel" if ordinary else Bert.__name__],
        "model_type": MODEL_TYPE if ordinary else OWN_MODEL_TYPE,
        "vocab_size": embeddings.token.num_embeddings,
        "hidden_size": embeddings.token.features,
        "num_hidden_layers": layer.attention_norm.scale.shape[0] if stacked else len(layers),
        "num_attention_heads": layer.attention.num_heads,
        "intermediate_size": layer.feed_forward.up.out_features,
        "hidden_act": GELU_TANH if activation == "gelu_tanh" else activation,
        "hidden_dropout_prob": embeddings.dropout.rate,
        "attention_probs_dropout_prob": layer.attention.dropout.rate,
        "max_position_embeddings": embeddings.max_positions,
        "type_vocab_size": embeddings.segment.num_embeddings,
        "layer_norm_eps": embeddings.norm.epsilon,
        "pad_token_id": embeddings.token.padding_idx,
        **({} if bert.pooler is not None else {"add_pooling_layer": False}),
        **({} if ordinary else own),
    }


def describe_classifier(classifier: SequenceClassifier) -> dict[str, Any]:
    """The `config.json` of a `SequenceClassifier`."""
    classes = classifier.head.linear.out_features
    return {
        **describe_bert(classifier.model),
        "architectures": [SequenceClassifier.__name__],
        "num_labels": classes,
        "id2label": {str(index): f"LABEL_{index}" for index in range(classes)},
        "classifier_dropout": classifier.head.dropout.rate,
    }


BERT = Family(
    name="Bert",
    model_types=(MODEL_TYPE, OWN_MODEL_TYPE),
    rules=RULES,
    build=encoder,
    names=NAMES,
    anchor="embeddings.token.weight",
    heads={
        "BertForSequenceClassification": sequence_classification(pooled=True),
        "BertForTokenClassification": token_classification(),
        "BertForQuestionAnswering": question_answering(),
        "BertForMaskedLM": masked_lm(),
        "SequenceClassifier": Head(own_classifier, defaults=LABELS),
    },
    prefix="bert.",
    optional={"add_pooling_layer": "pooler.dense.weight"},
    constants=CONSTANTS,
    others=("cls.predictions.", "cls.seq_relationship.", "classifier.", "qa_outputs.", "head."),
    old_names=OLD_NAMES,
    describe=describe,
)
