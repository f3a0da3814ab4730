"""What encoders of many families have on top of them: of which parts, and what Hugging Face calls its tensors.

Each function gives the `Head` of one task. Where families differ is an argument of it: a name, an activation, where
the dropout stands. A family's `ConfigRules` have `prepare=task_settings` for the attributes that these heads read.
"""

from collections.abc import Sequence
from typing import Any

from jax_attn.models.part import Part
from jax_attn.models.task_model import TaskModel
from jax_attn.nn.layers.classification_head import ClassificationHead
from jax_attn.nn.layers.masked_lm_head import MaskedLMHead
from jax_attn.nn.layers.span_head import SpanHead
from jax_attn.nn.layers.token_classification_head import TokenClassificationHead
from jax_attn.weights.family import Head, Settings
from jax_attn.weights.rules import Names, rename

LABELS: dict[str, Any] = {"num_labels": 2, "classifier_dropout": 0.1}
TYING = {"tie_word_embeddings": True}
TASK_SETTINGS = (*LABELS, *TYING)
CLASSIFIER: Names = ((r"^head\.linear\.", "classifier."),)
DENSE_CLASSIFIER: Names = (
    (r"^head\.dense\.", "classifier.dense."),
    (r"^head\.linear\.", "classifier.out_proj."),
)
LM_HEAD: Names = (
    (r"^head\.tied_decoder\.", "lm_head."),
    (r"^head\.norm\.", "lm_head.layer_norm."),
    (r"^head\.", "lm_head."),
)


def task_settings(config: dict[str, Any]) -> dict[str, Any]:
    """What `config.json` says of labels and of the dropout before the last layer, each in one word."""
    if "num_labels" not in config and config.get("id2label"):
        config["num_labels"] = len(config["id2label"])
    if config.get("classifier_dropout") is None:
        config["classifier_dropout"] = config.get("hidden_dropout_prob", LABELS["classifier_dropout"])
    return config


def sequence_classification(
    names: Names = CLASSIFIER, pooled: bool = False, dropout: str = "classifier_dropout", **options: Any
) -> Head:
    """Scores of classes for a text, from the pooler's vector where `pooled`.

    `dropout` is the attribute of `config.json` with the probability, `options` are those of `ClassificationHead`.
    """

    def build(model: Part, config: Settings) -> Part:
        pooling = {"pooling": None} if pooled else {}
        head = Part(
            ClassificationHead,
            embed_dim=config.hidden_size,
            num_classes=config.num_labels,
            dropout=getattr(config, dropout),
            **pooling,
            **options,
        )
        return Part(TaskModel, model=model, head=head, reads="text" if pooled else "tokens")

    defaults = {"num_labels": 2, dropout: 0.1}
    return Head(build, names, {"add_pooling_layer": pooled}, defaults)


def token_classification(names: Names = CLASSIFIER, **options: Any) -> Head:
    """Scores of classes for each token; `options` of `TokenClassificationHead`."""

    def build(model: Part, config: Settings) -> Part:
        given = {"num_classes": config.num_labels, "dropout": config.classifier_dropout, **options}
        head = Part(TokenClassificationHead, embed_dim=config.hidden_size, **given)
        return Part(TaskModel, model=model, head=head)

    return Head(build, names, {"add_pooling_layer": False}, LABELS)


def question_answering(
    names: Names = ((r"^head\.linear\.", "qa_outputs."),), dropout: str | None = None
) -> Head:
    """Where an answer starts and ends; `dropout` is the attribute of `config.json` with its probability."""

    def build(model: Part, config: Settings) -> Part:
        rate = 0.0 if dropout is None else getattr(config, dropout)
        return Part(TaskModel, model=model, head=Part(SpanHead, embed_dim=config.hidden_size, dropout=rate))

    defaults = {} if dropout is None else {dropout: 0.1}
    return Head(build, names, {"add_pooling_layer": False}, defaults)


def masked_lm(
    names: Names = (
        (r"^head\.tied_decoder\.", "cls.predictions."),
        (r"^head\.decoder\.", "cls.predictions.decoder."),
        (r"^head\.norm\.", "cls.predictions.transform.LayerNorm."),
        (r"^head\.", "cls.predictions.transform."),
    ),
    doubles: Sequence[str] = ("cls.predictions.bias", "cls.predictions.decoder.bias"),
    activation: str | None = None,
) -> Head:
    """Scores of all tokens in the place of each, tied or not; None is the encoder's activation."""

    def build(model: Part, config: Settings) -> Part:
        head = Part(
            MaskedLMHead,
            embed_dim=config.hidden_size,
            vocab_size=config.vocab_size,
            activation=config.hidden_act if activation is None else activation,
            eps=config.layer_norm_eps,
            tied=config.tie_word_embeddings,
            embedding_dim=getattr(config, "embedding_size", None),
        )
        reads = "tokens_and_table" if config.tie_word_embeddings else "tokens"
        return Part(TaskModel, model=model, head=head, reads=reads)

    tied = {rename("head.decoder.weight", names): "embeddings.token.weight"}
    return Head(build, names, {"add_pooling_layer": False}, TYING, doubles=doubles, tied=tied)
