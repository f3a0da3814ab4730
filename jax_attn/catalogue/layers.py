"""The rows of `nn/layers/`."""

from dataclasses import replace
from functools import partial

from jax_attn.catalogue.cases import (
    EXACT,
    batched_id_cases,
    batched_token_cases,
    grid_cases,
    mask_cases,
    pooling_cases,
    routing_cases,
    table_cases,
    token_cases,
    token_id_cases,
)
from jax_attn.catalogue.twin import ATTENTION_PAPER, BERT, NLP_TRANSFORMERS, Twin
from jax_attn.parity.cases import Case

GLU_VARIANTS = "Shazeer (arXiv 2002.05202)"
ENCODER_LAYER = dict(embed_dim=91, num_heads=7, hidden_dim=113, dropout=0.2, attention_dropout=0.3)


def encoder_layer_cases(width: int) -> list[Case]:
    """The usual cases in batches, and those with a mask."""
    return [case for case in [*token_cases(width), *mask_cases(width)] if "unbatched" not in case.name]


def encoder_cases(width: int) -> list[Case]:
    """The same in fewer shapes: whole stacks take their time to compile."""
    *batched, padding = [
        case for case in encoder_layer_cases(width) if case.name not in ("one token", "pairs")
    ]
    return [*batched, replace(padding, lanes=EXACT)]


LAYERS = [
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
        "embeddings-factorised",
        "nn.layers.embeddings:Embeddings",
        "the same in narrow tables, and a linear layer",
        "Lan et al. (arXiv 1909.11942)",
        dict(vocab_size=31, embed_dim=37, max_positions=11, embedding_dim=13),
        partial(batched_id_cases, 31),
    ),
    Twin(
        "embeddings-scaled",
        "nn.layers.embeddings:Embeddings",
        "the token's vector alone, times the root of its width",
        "Gemma (arXiv 2403.08295)",
        dict(
            vocab_size=31,
            embed_dim=37,
            max_positions=None,
            num_segments=0,
            positions=None,
            norm=None,
            scaled=True,
        ),
        partial(batched_id_cases, 31),
    ),
    Twin(
        "patch-embeddings",
        "nn.layers.patch_embeddings:PatchEmbeddings",
        "patches of an image, a class token, learned positions",
        "Dosovitskiy et al. (arXiv 2010.11929)",
        dict(image_size=(10, 21), patch_size=(5, 7), num_channels=3, embed_dim=37, dropout=0.2),
        partial(grid_cases, (10, 21, 3)),
    ),
    Twin(
        "patch-embeddings-alone",
        "nn.layers.patch_embeddings:PatchEmbeddings",
        "the same without a class token and a bias",
        "Dosovitskiy et al. (arXiv 2010.11929)",
        dict(image_size=10, patch_size=5, num_channels=3, embed_dim=37, class_token=False, bias=False),
        partial(grid_cases, (10, 10, 3)),
    ),
    Twin(
        "convolution-stem",
        "nn.layers.convolution_stem:ConvolutionStem",
        "two convolutions of a spectrogram, the second with a step of 2",
        "Radford et al. (arXiv 2212.04356)",
        dict(num_features=13, embed_dim=37),
        partial(grid_cases, (7, 13)),
    ),
    Twin(
        "tied-head",
        "nn.layers.tied_head:TiedHead",
        "scores of all tokens from the table that embeds them, with a bias",
        "Press and Wolf (arXiv 1608.05859)",
        dict(vocab_size=31, bias=True, softcap=3.0),
        partial(table_cases, 37, 31),
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
    Twin(
        "feed-forward-relu-squared",
        "nn.layers.feed_forward:FeedForward",
        "two linear layers without a bias around ReLU squared",
        "So et al. (arXiv 2109.08668)",
        dict(embed_dim=37, hidden_dim=113, activation="relu2", bias=False),
        partial(batched_token_cases, 37),
    ),
    Twin(
        "feed-forward-swiglu",
        "nn.layers.gated_feed_forward:GatedFeedForward",
        "a linear layer of SiLU(x W) times x V",
        GLU_VARIANTS,
        dict(embed_dim=37, hidden_dim=113, dropout=0.2),
        partial(token_cases, 37),
    ),
    *(
        Twin(
            f"feed-forward-{name}",
            "nn.layers.gated_feed_forward:GatedFeedForward",
            f"the same with {activation} in place of SiLU, and biases",
            GLU_VARIANTS,
            dict(embed_dim=37, hidden_dim=113, activation=activation, bias=True),
            partial(batched_token_cases, 37),
        )
        for name, activation in {"glu": "sigmoid", "reglu": "relu", "geglu": "gelu"}.items()
    ),
    Twin(
        "mixture-of-experts",
        "nn.layers.mixture_of_experts:MixtureOfExperts",
        "each token through 2 of 5 feed-forward layers, weighted by a softmax over the chosen",
        "Jiang et al. (arXiv 2401.04088)",
        dict(embed_dim=37, hidden_dim=23, num_experts=5, dropout=0.2),
        partial(routing_cases, 37),
    ),
    Twin(
        "mixture-of-experts-shared",
        "nn.layers.mixture_of_experts:MixtureOfExperts",
        "the same with a softmax over all, limited capacity and a shared expert with a gate",
        "Qwen2 (arXiv 2407.10671); Fedus et al. (arXiv 2101.03961)",
        dict(
            embed_dim=37,
            hidden_dim=23,
            num_experts=5,
            top_k=3,
            softmax="before",
            capacity_factor=1.0,
            shared_dim=29,
            shared_gate=True,
        ),
        partial(routing_cases, 37),
    ),
    Twin(
        "layer-scale",
        "nn.layers.layer_scale:LayerScale",
        "a learned factor for each feature",
        "Touvron et al. (arXiv 2103.17239)",
        dict(embed_dim=37, initial=0.3),
        partial(token_cases, 37),
    ),
    Twin(
        "drop-path",
        "nn.layers.drop_path:DropPath",
        "a sequence is zeroed whole, by chance",
        "Huang et al. (arXiv 1603.09382)",
        dict(p=0.3),
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
        "span-head",
        "nn.layers.span_head:SpanHead",
        "scores of each token as the start and as the end of an answer",
        BERT,
        dict(embed_dim=37),
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
