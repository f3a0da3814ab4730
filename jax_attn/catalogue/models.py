"""The rows of `models/`."""

from functools import partial

from jax_attn.catalogue.cases import text_cases, translation_cases
from jax_attn.catalogue.twin import ATTENTION_PAPER, BERT, NLP_TRANSFORMERS, Twin

BERT_TINY = dict(
    vocab_size=31,
    hidden_size=91,
    num_hidden_layers=2,
    num_attention_heads=7,
    intermediate_size=113,
    hidden_dropout_prob=0.2,
    attention_probs_dropout_prob=0.3,
    max_position_embeddings=11,
)

TRANSFORMER_TINY = dict(
    vocab_size=31,
    embed_dim=38,
    num_heads=2,
    hidden_dim=43,
    num_layers=1,
    head_dim=5,
    v_head_dim=7,
    dropout=0.2,
    max_positions=13,
)

MODELS = [
    Twin(
        "bert",
        "models.bert:Bert",
        "embeddings, encoder and pooler",
        BERT,
        BERT_TINY,
        partial(text_cases, 31, context=11),
        whole_model=True,
    ),
    Twin(
        "bert-scanned",
        "models.bert:Bert",
        "the same with its layers stacked, and no pooler",
        BERT,
        dict(BERT_TINY, scan=True, add_pooling_layer=False),
        partial(text_cases, 31, context=11),
        whole_model=True,
    ),
    Twin(
        "bert-pre",
        "models.bert:Bert",
        "the same in pre-norm with tanh GELU and sinusoidal positions",
        BERT,
        dict(BERT_TINY, norm_placement="pre", hidden_act="gelu_new", positions="sinusoidal"),
        partial(text_cases, 31, context=11),
        whole_model=True,
    ),
    Twin(
        "sequence-classifier",
        "models.sequence_classifier:SequenceClassifier",
        "an encoder with a classification head",
        NLP_TRANSFORMERS,
        dict(BERT_TINY, num_hidden_layers=1, num_classes=5, classifier_dropout=0.2),
        partial(text_cases, 31, context=11),
        whole_model=True,
    ),
    Twin(
        "transformer",
        "models.transformer:Transformer",
        "the encoder-decoder of 2017, one table for source, target and output",
        ATTENTION_PAPER,
        TRANSFORMER_TINY,
        partial(translation_cases, 31),
        whole_model=True,
    ),
    Twin(
        "transformer-pre-scanned",
        "models.transformer:Transformer",
        "the same in pre-norm with learned positions, its layers stacked, and dropout of attention weights",
        ATTENTION_PAPER,
        dict(
            TRANSFORMER_TINY,
            num_layers=2,
            norm_placement="pre",
            final_norm=True,
            positions="learned",
            activation="gelu",
            attention_dropout=0.3,
            scan=True,
        ),
        partial(translation_cases, 31),
        whole_model=True,
    ),
]
