"""ELECTRA: BERT with narrow embeddings and no pooler, as a discriminator or as a generator."""

from jax_attn.functional.activations import ACTIVATIONS
from jax_attn.models.part import Part
from jax_attn.models.task_model import TaskModel
from jax_attn.nn.layers.token_classification_head import TokenClassificationHead
from jax_attn.weights.config import ConfigRules
from jax_attn.weights.families.encoder_heads import (
    DENSE_CLASSIFIER,
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
    LAYER_NAMES,
    text_encoder,
)
from jax_attn.weights.family import Family, Head, Settings

OWN_DEFAULTS = {
    "hidden_size": 256,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "embedding_size": 128,
}
NAMES = ((r"\bembeddings\.projection\.", "embeddings_project."), *EMBEDDING_NAMES, *LAYER_NAMES)
GENERATOR = (
    (r"^head\.dense\.", "generator_predictions.dense."),
    (r"^head\.norm\.", "generator_predictions.LayerNorm."),
    (r"^head\.(tied_)?decoder\.", "generator_lm_head."),
)
DISCRIMINATOR = (
    (r"^head\.dense\.", "discriminator_predictions.dense."),
    (r"^head\.linear\.", "discriminator_predictions.dense_prediction."),
)


def encoder(config: Settings) -> Part:
    """The model without a head."""
    narrow = None if config.embedding_size == config.hidden_size else config.embedding_size
    return text_encoder(config, embedding_dim=narrow)


def discriminator(model: Part, config: Settings) -> Part:
    """Whether each token was replaced: one score, `(b, t)`."""
    head = Part(
        TokenClassificationHead,
        embed_dim=config.hidden_size,
        num_classes=None,
        dense=True,
        activation=config.hidden_act,
    )
    return Part(TaskModel, model=model, head=head)


ELECTRA = Family(
    name="Electra",
    model_types=("electra",),
    rules=ConfigRules(
        defaults={**DEFAULTS, **OWN_DEFAULTS},
        choices={"hidden_act": tuple(ACTIVATIONS)},
        optional=("pad_token_id",),
        ordinary={"position_embedding_type": "absolute"},
        neutral=("classifier_dropout",),
        prepare=task_settings,
    ),
    build=encoder,
    names=NAMES,
    anchor="embeddings.token.weight",
    heads={
        "ElectraForSequenceClassification": sequence_classification(
            DENSE_CLASSIFIER, dense=True, activation="gelu"
        ),
        "ElectraForTokenClassification": token_classification(),
        "ElectraForQuestionAnswering": question_answering(),
        "ElectraForMaskedLM": masked_lm(GENERATOR, (), "gelu"),
        "ElectraForPreTraining": Head(discriminator, DISCRIMINATOR),
    },
    prefix="electra.",
    constants=CONSTANTS,
    others=("generator_", "discriminator_predictions.", "classifier.", "qa_outputs."),
)
