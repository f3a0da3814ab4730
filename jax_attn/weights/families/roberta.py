"""RoBERTa and XLM-R: BERT whose positions count the tokens that are no padding, from the one after its own on."""

from jax_attn.functional.activations import ACTIVATIONS
from jax_attn.models.part import Part
from jax_attn.nn.positions.learned import LearnedPositions
from jax_attn.weights.config import ConfigRules
from jax_attn.weights.families.encoder_heads import (
    DENSE_CLASSIFIER,
    LM_HEAD,
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
from jax_attn.weights.family import Family, Settings

RULES = ConfigRules(
    defaults={**DEFAULTS, "pad_token_id": 1},
    choices={"hidden_act": tuple(ACTIVATIONS)},
    optional=("pad_token_id",),
    ordinary={"position_embedding_type": "absolute"},
    neutral=("classifier_dropout",),
    prepare=task_settings,
)


def encoder(config: Settings) -> Part:
    """The model without a head."""
    if config.pad_token_id is None:
        raise ValueError("pad_token_id must be an integer, for positions are counted from it, got None")
    offset = config.pad_token_id + 1
    positions = Part(
        LearnedPositions,
        num_embeddings=config.max_position_embeddings,
        embedding_dim=config.hidden_size,
        offset=offset,
        padding_idx=config.pad_token_id,
    )
    most = config.max_position_embeddings - offset
    return text_encoder(config, positions=positions, max_positions=most, skip_padding=True)


def family(name: str, model_type: str) -> Family:
    """A family that differs from RoBERTa in nothing but these."""
    return Family(
        name=name,
        model_types=(model_type,),
        rules=RULES,
        build=encoder,
        names=(*EMBEDDING_NAMES, *LAYER_NAMES),
        anchor="embeddings.token.weight",
        heads={
            f"{name}ForSequenceClassification": sequence_classification(DENSE_CLASSIFIER, dense=True),
            f"{name}ForTokenClassification": token_classification(),
            f"{name}ForQuestionAnswering": question_answering(),
            f"{name}ForMaskedLM": masked_lm(LM_HEAD, ("lm_head.bias", "lm_head.decoder.bias"), "gelu"),
        },
        prefix="roberta.",
        optional={"add_pooling_layer": "pooler.dense.weight"},
        constants=CONSTANTS,
        others=("lm_head.", "classifier.", "qa_outputs."),
    )


ROBERTA = family("Roberta", "roberta")
XLM_ROBERTA = family("XLMRoberta", "xlm-roberta")
