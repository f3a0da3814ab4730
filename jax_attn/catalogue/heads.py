"""The rows of poolers and heads."""

from functools import partial

import numpy as np

from jax_attn.catalogue.cases import EXACT, batched_token_cases, pooling_cases, table_cases, token_cases
from jax_attn.catalogue.twin import BERT, MODERNBERT, NLP_TRANSFORMERS, Twin
from jax_attn.models.part import Part
from jax_attn.parity.cases import Case


def vector_cases(width: int) -> list[Case]:
    """One vector for each sequence."""
    x = np.random.default_rng(0).standard_normal((3, width))
    return [Case("plain", (x,)), Case("unbatched", (x[0],), lanes=EXACT)]


HEADS = [
    Twin(
        "transformed-head",
        "nn.layers.transformed_head:TransformedHead",
        "a dense layer and a norm before the head, for each token",
        MODERNBERT,
        dict(
            embed_dim=37,
            head=Part("nn.layers.span_head:SpanHead", embed_dim=37, dropout=0.2),
            bias=False,
            norm="layer_without_bias",
        ),
        partial(token_cases, 37),
    ),
    Twin(
        "transformed-head-pooled",
        "nn.layers.transformed_head:TransformedHead",
        "the same for one vector of all tokens",
        MODERNBERT,
        dict(
            embed_dim=37,
            head=Part("nn.primitives:Linear", in_features=37, out_features=5),
            pooler=Part("nn.layers.pooler:Pooler", embed_dim=37, kind="mean", dense=False),
            activation="relu",
        ),
        partial(batched_token_cases, 37),
    ),
    Twin(
        "pooler",
        "nn.layers.pooler:Pooler",
        "the first token's vector, a dense layer and tanh",
        BERT,
        dict(embed_dim=37),
        # Of larger numbers tanh leaves a derivative that is little more than rounding errors.
        partial(token_cases, 37, mean=2.0),
    ),
    *(
        Twin(
            f"pooler-{kind}",
            "nn.layers.pooler:Pooler",
            summary,
            source,
            dict(embed_dim=37, kind=kind, dense=False),
            partial(pooling_cases, 37),
        )
        for kind, summary, source in (
            ("mean", "the mean of the tokens", "Reimers and Gurevych (arXiv 1908.10084)"),
            ("max", "the largest value of each feature", "Reimers and Gurevych (arXiv 1908.10084)"),
            ("last", "the last token's vector", "Radford et al., GPT (2018)"),
        )
    ),
    Twin(
        "pooler-gelu",
        "nn.layers.pooler:Pooler",
        "the first token's vector, a dense layer and GELU",
        "He et al. (arXiv 2006.03654)",
        dict(embed_dim=37, activation="gelu"),
        partial(pooling_cases, 37),
    ),
    Twin(
        "classification-head",
        "nn.layers.classification_head:ClassificationHead",
        "the first token's vector, dropout and a linear layer",
        NLP_TRANSFORMERS,
        dict(embed_dim=37, num_classes=5, dropout=0.2),
        partial(token_cases, 37),
    ),
    Twin(
        "classification-head-dense",
        "nn.layers.classification_head:ClassificationHead",
        "the mean of the tokens, a dense layer and GELU before the last",
        "Liu et al. (arXiv 1907.11692), the head in its code",
        dict(embed_dim=37, num_classes=5, dropout=0.2, pooling="mean", dense=True, activation="gelu"),
        partial(pooling_cases, 37),
    ),
    Twin(
        "classification-head-pooled",
        "nn.layers.classification_head:ClassificationHead",
        "the same of the vector that a pooler gave, the dense layer with a dropout of its own",
        "Sanh et al. (arXiv 1910.01108), the head in its code",
        dict(
            embed_dim=37,
            num_classes=5,
            dropout=0.2,
            pooling=None,
            dense=True,
            activation="relu",
            input_dropout=0.3,
        ),
        partial(vector_cases, 37),
    ),
    Twin(
        "regression-head",
        "nn.layers.regression_head:RegressionHead",
        "one number for a sequence",
        BERT,
        dict(embed_dim=37, dropout=0.2),
        partial(pooling_cases, 37),
    ),
    Twin(
        "token-classification-head",
        "nn.layers.token_classification_head:TokenClassificationHead",
        "dropout and a linear layer on each token",
        BERT,
        dict(embed_dim=37, num_classes=5, dropout=0.2),
        partial(token_cases, 37),
    ),
    Twin(
        "token-classification-head-dense",
        "nn.layers.token_classification_head:TokenClassificationHead",
        "the same behind a dense layer and GELU, a single score of each",
        "Clark et al. (arXiv 2003.10555), the discriminator in its code",
        dict(embed_dim=37, num_classes=None, dropout=0.2, dense=True),
        partial(token_cases, 37),
    ),
    Twin(
        "span-head",
        "nn.layers.span_head:SpanHead",
        "scores of each token as the start and as the end of an answer",
        BERT,
        dict(embed_dim=37, dropout=0.2),
        partial(token_cases, 37),
    ),
    Twin(
        "causal-lm-head",
        "nn.layers.causal_lm_head:CausalLMHead",
        "a linear layer to scores of all tokens, bounded by tanh",
        "Gemma 2 (arXiv 2408.00118)",
        dict(embed_dim=37, vocab_size=31, softcap=3.0),
        partial(token_cases, 37),
    ),
    Twin(
        "masked-lm-head",
        "nn.layers.masked_lm_head:MaskedLMHead",
        "a dense layer, GELU, norm, then scores of all tokens",
        BERT,
        dict(embed_dim=37, vocab_size=31, tied=False),
        partial(token_cases, 37),
    ),
    Twin(
        "masked-lm-head-tied",
        "nn.layers.masked_lm_head:MaskedLMHead",
        "the same from the table of narrow embeddings",
        "Lan et al. (arXiv 1909.11942)",
        dict(embed_dim=37, vocab_size=31, embedding_dim=13),
        partial(table_cases, 37, 31, 13),
    ),
]
