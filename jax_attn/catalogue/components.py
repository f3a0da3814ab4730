"""The rows of what models are made of, from the attention module up to the models themselves."""

from dataclasses import replace
from functools import partial

from jax_attn.catalogue.cases import (
    EXACT,
    cross_cases,
    mask_cases,
    text_cases,
    token_cases,
    token_id_cases,
)
from jax_attn.catalogue.twin import ATTENTION_PAPER, BERT, NLP_TRANSFORMERS, Twin
from jax_attn.parity.cases import Case

ENCODER_LAYER = dict(embed_dim=91, num_heads=7, hidden_dim=113, dropout=0.2, attention_dropout=0.3)
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


def encoder_layer_cases(width: int) -> list[Case]:
    """The usual cases in batches, and those with a mask."""
    return [case for case in [*token_cases(width), *mask_cases(width)] if "unbatched" not in case.name]


def encoder_cases(width: int) -> list[Case]:
    """The same in fewer shapes: whole stacks take their time to compile."""
    *batched, padding = [
        case for case in encoder_layer_cases(width) if case.name not in ("one token", "pairs")
    ]
    return [*batched, replace(padding, lanes=EXACT)]


COMPONENTS = [
    # attention
    Twin(
        "attention",
        "nn.attention.multi_head:MultiHeadAttention",
        "heads that see every token; the attention of the models",
        ATTENTION_PAPER,
        dict(embed_dim=91, num_heads=7, dropout=0.3),
        partial(token_cases, 91),
    ),
    Twin(
        "attention-masked",
        "nn.attention.multi_head:MultiHeadAttention",
        "the same without biases, with a mask over keys or pairs",
        ATTENTION_PAPER,
        dict(embed_dim=91, num_heads=7, dropout=0.3, bias=False),
        partial(mask_cases, 91),
    ),
    Twin(
        "attention-cross",
        "nn.attention.multi_head:MultiHeadAttention",
        "from one sequence to another of another length",
        ATTENTION_PAPER,
        dict(embed_dim=91, num_heads=7, dropout=0.3),
        partial(cross_cases, 91),
    ),
    Twin(
        "attention-grouped",
        "nn.attention.multi_head:MultiHeadAttention",
        "GQA: three query heads to a key/value head",
        "Ainslie et al. (arXiv 2305.13245)",
        dict(embed_dim=78, num_heads=6, num_kv_heads=2, dropout=0.3),
        partial(cross_cases, 78),
    ),
    Twin(
        "attention-multi-query",
        "nn.attention.multi_head:MultiHeadAttention",
        "MQA: all query heads to one key/value head",
        "Shazeer (arXiv 1911.02150)",
        dict(embed_dim=87, num_heads=3, num_kv_heads=1, dropout=0.3),
        partial(mask_cases, 87),
    ),
    # positions
    Twin(
        "positions-learned",
        "nn.positions.learned:LearnedPositions",
        "a learned vector for each position",
        BERT,
        dict(num_embeddings=11, embedding_dim=7),
        partial(token_cases, 7, context=11),
    ),
    Twin(
        "positions-sinusoidal",
        "nn.positions.sinusoidal:SinusoidalPositions",
        "sines and cosines of the position, nothing to learn",
        ATTENTION_PAPER,
        dict(num_embeddings=509, embedding_dim=7),
        partial(token_cases, 7, context=509),
    ),
    # layers
    Twin(
        "embeddings",
        "nn.layers.embeddings:Embeddings",
        "token + learned position + segment, norm, dropout",
        BERT,
        dict(vocab_size=31, embed_dim=37, max_positions=11, num_segments=3, dropout=0.2),
        partial(token_id_cases, 31, segments=3, context=11, segment_name="segment_ids"),
    ),
    Twin(
        "embeddings-sinusoidal",
        "nn.layers.embeddings:Embeddings",
        "the same with sinusoidal positions",
        ATTENTION_PAPER,
        dict(vocab_size=31, embed_dim=37, max_positions=11, dropout=0.2, positions="sinusoidal"),
        partial(token_id_cases, 31, context=11, segment_name="segment_ids"),
    ),
    Twin(
        "feed-forward-gelu",
        "nn.layers.feed_forward:FeedForward",
        "two linear layers around GELU with erf",
        BERT,
        dict(embed_dim=37, hidden_dim=113, activation="gelu", dropout=0.2),
        partial(token_cases, 37),
    ),
    Twin(
        "feed-forward-gelu-tanh",
        "nn.layers.feed_forward:FeedForward",
        "two linear layers around GELU with tanh",
        "Hendrycks and Gimpel (arXiv 1606.08415)",
        dict(embed_dim=37, hidden_dim=113, activation="gelu_tanh", dropout=0.2),
        partial(token_cases, 37),
    ),
    Twin(
        "feed-forward-relu",
        "nn.layers.feed_forward:FeedForward",
        "two linear layers around ReLU",
        ATTENTION_PAPER,
        dict(embed_dim=37, hidden_dim=113, activation="relu", dropout=0.2),
        partial(token_cases, 37),
    ),
    *(
        Twin(
            f"encoder-layer-{placement}",
            "nn.layers.encoder_layer:EncoderLayer",
            f"attention and feed-forward, {placement}-norm",
            source,
            dict(ENCODER_LAYER, norm_placement=placement),
            partial(encoder_layer_cases, 91),
        )
        for placement, source in {"post": ATTENTION_PAPER, "pre": "Xiong et al. (arXiv 2002.04745)"}.items()
    ),
    Twin(
        "encoder",
        "nn.layers.encoder:Encoder",
        "encoder layers one after another",
        ATTENTION_PAPER,
        dict(ENCODER_LAYER, num_layers=2),
        partial(encoder_cases, 91),
    ),
    Twin(
        "encoder-scanned",
        "nn.layers.encoder:Encoder",
        "the same as one stacked layer and a loop",
        ATTENTION_PAPER,
        dict(ENCODER_LAYER, num_layers=2, scan=True),
        partial(encoder_cases, 91),
    ),
    Twin(
        "encoder-pre-scanned",
        "nn.layers.encoder:Encoder",
        "the same in pre-norm with a norm at its end, recomputed backwards",
        "Xiong et al. (arXiv 2002.04745)",
        dict(ENCODER_LAYER, num_layers=2, norm_placement="pre", final_norm=True, scan=True, remat=True),
        partial(encoder_cases, 91),
    ),
    Twin(
        "pooler",
        "nn.layers.pooler:Pooler",
        "the first token's vector, a dense layer and tanh",
        BERT,
        dict(embed_dim=37),
        partial(token_cases, 37),
    ),
    Twin(
        "classification-head",
        "nn.layers.classification_head:ClassificationHead",
        "the first token's vector, dropout and a linear layer",
        NLP_TRANSFORMERS,
        dict(embed_dim=37, num_classes=5, dropout=0.2),
        partial(token_cases, 37),
    ),
    # models
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
]
