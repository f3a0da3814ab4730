"""The rows of `nn/layers/`."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from jax_attn.catalogue.cases import (
    EXACT,
    batched_id_cases,
    batched_token_cases,
    grid_cases,
    hidden_patch_cases,
    mask_cases,
    pooling_cases,
    routing_cases,
    table_cases,
    token_cases,
    token_id_cases,
)
from jax_attn.catalogue.twin import ATTENTION_PAPER, BERT, NLP_TRANSFORMERS, Twin
from jax_attn.functional.deepnorm import deepnorm_scales
from jax_attn.models.part import Part
from jax_attn.parity.cases import Case

DEBERTA = "DeBERTa (arXiv 2006.03754)"
GLU_VARIANTS = "Shazeer (arXiv 2002.05202)"
MODERNBERT = "ModernBERT (arXiv 2412.13663)"
ENCODER_LAYER = dict(embed_dim=91, num_heads=7, hidden_dim=113, dropout=0.2, attention_dropout=0.3)


def vector_cases(width: int) -> list[Case]:
    """One vector for each sequence."""
    x = np.random.default_rng(0).standard_normal((3, width))
    return [Case("plain", (x,)), Case("unbatched", (x[0],), lanes=EXACT)]


def encoder_layer_cases(width: int) -> list[Case]:
    """The usual cases in batches, and those with a mask."""
    return [case for case in [*token_cases(width), *mask_cases(width)] if "unbatched" not in case.name]


def encoder_cases(width: int) -> list[Case]:
    """The same in fewer shapes: whole stacks take their time to compile."""
    *batched, padding = [
        case for case in encoder_layer_cases(width) if case.name not in ("one token", "pairs")
    ]
    return [*batched, replace(padding, lanes=EXACT)]


def decoder_cases(
    width: int, context_dim: int, tokens: int = 5, others: int = 7, batch: int = 3
) -> list[Case]:
    """Calls with a context of another length, with and without padding in both."""
    rng = np.random.default_rng(7)
    x = rng.standard_normal((batch, tokens, width))
    context = rng.standard_normal((batch, others, context_dim))
    masks = {
        name: np.arange(size) < np.linspace(size, 0, batch).astype(int)[:, None]
        for name, size in {"mask": tokens, "context_mask": others}.items()
    }
    return [
        Case("plain", (x, context)),
        Case("padding in both", (x, context), masks, EXACT),
        Case("unbatched", (x[0], context[0]), lanes=EXACT),
    ]


def padded_cases(width: int, tokens: int = 5) -> list[Case]:
    """Calls with and without padding behind the tokens."""
    plain, padding, _ = pooling_cases(width, tokens)
    return [plain, replace(padding, lanes=EXACT)]


def decoder_only_cases(width: int) -> list[Case]:
    """Calls without a context: plain, and padded."""
    plain, *_ = token_cases(width)
    padding, *_ = mask_cases(width)
    return [plain, replace(padding, lanes=EXACT)]


def expert_layer_cases(width: int) -> list[Case]:
    """Calls with padding before tokens of which experts then have room for more, and with a mask of pairs."""
    plain, *_ = token_cases(width)
    padding, pairs, *_ = mask_cases(width)
    left = padding.kwargs["mask"][:, ::-1].copy()
    return [plain, Case("padding on the left", padding.args, {"mask": left}), pairs]


DECODER_LAYER = dict(embed_dim=26, num_heads=2, hidden_dim=29, dropout=0.2, attention_dropout=0.3)
DISENTANGLED_LAYER = Part(
    "nn.layers.encoder_layer:EncoderLayer",
    embed_dim=26,
    hidden_dim=29,
    dropout=0.2,
    attention=Part(
        "nn.attention.disentangled:DisentangledAttention",
        embed_dim=26,
        num_heads=2,
        max_relative_positions=7,
        position_buckets=4,
        dropout=0.3,
        position_dropout=0.2,
    ),
)
BESIDE = dict(layer=DISENTANGLED_LAYER, embed_dim=26, kernel_size=3, groups=2, dropout=0.2)


def rotary_attention(**options: Any) -> Part:
    """Causal, grouped, with rotary positions and heads of a width of their own."""
    sizes = dict(embed_dim=23, num_heads=6, num_kv_heads=2, head_dim=4, bias=False, dropout=0.3)
    positions = Part("nn.positions.rotary:RotaryPositions", head_dim=4)
    return Part(
        "nn.attention.multi_head:MultiHeadAttention", **sizes, is_causal=True, positions=positions, **options
    )


def gated_layer(activation: str, attention: Part, **options: Any) -> dict[str, Any]:
    """The arguments of a decoder layer of these parts."""
    feed_forward = Part(
        "nn.layers.gated_feed_forward:GatedFeedForward", embed_dim=23, hidden_dim=29, activation=activation
    )
    return dict(embed_dim=23, attention=attention, feed_forward=feed_forward, eps=1e-6, **options)


LLAMA_LAYER = gated_layer("silu", rotary_attention(), norm_placement="pre", norm="rms")
GEMMA_LAYERS = [
    gated_layer(
        "gelu_tanh",
        rotary_attention(window=window, softcap=2.0),
        norm_placement="sandwich",
        norm="rms_unit_offset",
    )
    for window in (3, None)
]
T5_LAYER = dict(
    embed_dim=23,
    norm_placement="pre",
    norm="rms",
    dropout=0.2,
    attention=Part(
        "nn.attention.multi_head:MultiHeadAttention",
        embed_dim=23,
        num_heads=3,
        head_dim=4,
        bias=False,
        scale=1.0,
        dropout=0.3,
    ),
    feed_forward=Part(
        "nn.layers.feed_forward:FeedForward", embed_dim=23, hidden_dim=29, activation="relu", bias=False
    ),
)

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
        "embeddings-counted",
        "nn.layers.embeddings:Embeddings",
        "positions of the tokens that are no padding, after that of padding",
        "Liu et al. (arXiv 1907.11692), in its code",
        dict(
            vocab_size=5,
            embed_dim=37,
            max_positions=9,
            positions=Part(
                "nn.positions.learned:LearnedPositions",
                num_embeddings=11,
                embedding_dim=37,
                offset=2,
                padding_idx=1,
            ),
            padding_idx=1,
            skip_padding=True,
        ),
        partial(batched_id_cases, 5),
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
        "patch-embeddings-registers",
        "nn.layers.patch_embeddings:PatchEmbeddings",
        "the same with registers and a mask token for hidden patches",
        "Darcet et al. (arXiv 2309.16588)",
        dict(image_size=10, patch_size=5, num_channels=3, embed_dim=37, num_registers=2, mask_token=True),
        partial(hidden_patch_cases, (10, 10, 3), 4),
    ),
    Twin(
        "patch-embeddings-resized",
        "nn.layers.patch_embeddings:PatchEmbeddings",
        "images of another size, over which the positions are stretched",
        "DINOv2 (arXiv 2304.07193)",
        dict(image_size=(10, 15), patch_size=5, num_channels=3, embed_dim=37, resize="bicubic"),
        partial(grid_cases, (21, 20, 3)),
    ),
    Twin(
        "image-classification-head",
        "nn.layers.image_classification_head:ImageClassificationHead",
        "class token and mean of the patches, beside registers",
        "Oquab et al. (arXiv 2304.07193)",
        dict(embed_dim=37, num_classes=5, num_registers=2),
        lambda: token_cases(37, tokens=7)[:4],  # one token is no patch
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
        "scores of all tokens from the table that embeds them, with a scale and a bias",
        "Press and Wolf (arXiv 1608.05859)",
        dict(vocab_size=31, bias=True, softcap=3.0, scale=0.4),
        partial(table_cases, 37, 31),
    ),
    Twin(
        "feed-forward-gelu",
        "nn.layers.feed_forward:FeedForward",
        "two linear layers around GELU with erf",
        BERT,
        dict(embed_dim=37, hidden_dim=113, activation="gelu", dropout=0.2, activation_dropout=0.3),
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
        dict(embed_dim=37, hidden_dim=113, dropout=0.2, activation_dropout=0.3),
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
        "encoder-layer-scaled",
        "nn.layers.encoder_layer:EncoderLayer",
        "pre-norm, branches that are scaled and left out by chance",
        "DINOv2 (arXiv 2304.07193)",
        dict(DECODER_LAYER, norm_placement="pre", layer_scale=0.1, drop_path=0.3),
        partial(decoder_only_cases, 26),
    ),
    Twin(
        "encoder-layer-deepnorm",
        "nn.layers.encoder_layer:EncoderLayer",
        "post-norm with skip connections that weigh more than branches",
        "DeepNorm (arXiv 2203.00555)",
        dict(DECODER_LAYER, residual_scale=deepnorm_scales(encoder_layers=24)["encoder"][0]),
        partial(decoder_only_cases, 26),
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
        "decoder-layer",
        "nn.layers.decoder_layer:DecoderLayer",
        "causal attention, attention to a context, feed-forward",
        ATTENTION_PAPER,
        dict(DECODER_LAYER, context_dim=37),
        partial(decoder_cases, 26, 37),
    ),
    Twin(
        "decoder-layer-llama",
        "nn.layers.decoder_layer:DecoderLayer",
        "rotary GQA and SwiGLU between RMS norms, without a context",
        "Llama 2 (arXiv 2307.09288)",
        LLAMA_LAYER,
        partial(decoder_only_cases, 23),
    ),
    Twin(
        "decoder-layer-parallel",
        "nn.layers.decoder_layer:DecoderLayer",
        "attention and feed-forward side by side after one norm",
        "PaLM (arXiv 2204.02311)",
        dict(LLAMA_LAYER, norm_placement="parallel"),
        partial(decoder_only_cases, 23),
    ),
    Twin(
        "decoder",
        "nn.layers.decoder:Decoder",
        "decoder layers in pre-norm, as one stacked layer and a loop, recomputed backwards",
        ATTENTION_PAPER,
        dict(
            DECODER_LAYER,
            num_layers=2,
            context_dim=37,
            norm_placement="pre",
            final_norm=True,
            scan=True,
            remat=True,
        ),
        partial(decoder_cases, 26, 37),
    ),
    Twin(
        "encoder-layer-experts",
        "nn.layers.encoder_layer:EncoderLayer",
        "pre-norm with a mixture of experts, in which padding takes no room",
        "Fedus et al. (arXiv 2101.03961)",
        dict(
            DECODER_LAYER,
            norm_placement="pre",
            feed_forward=Part(
                "nn.layers.mixture_of_experts:MixtureOfExperts",
                embed_dim=26,
                hidden_dim=29,
                num_experts=3,
                capacity_factor=0.5,
                dropout=0.2,
            ),
        ),
        partial(expert_layer_cases, 26),
    ),
    Twin(
        "encoder-layer-first",
        "nn.layers.encoder_layer:EncoderLayer",
        "pre-norm, whose attention reads what is normed already",
        MODERNBERT,
        dict(DECODER_LAYER, norm_placement="pre", norm="layer_without_bias", first_norm=False),
        partial(decoder_only_cases, 26),
    ),
    Twin(
        "disentangled-encoder",
        "nn.layers.disentangled_encoder:DisentangledEncoder",
        "layers that share one normed table of relative positions, the first beside a convolution",
        DEBERTA,
        dict(
            layers=[Part("nn.layers.convolution_layer:ConvolutionLayer", **BESIDE), DISENTANGLED_LAYER],
            relative=Part("nn.primitives:Embedding", num_embeddings=8, embedding_dim=26),
            relative_norm=Part("nn.primitives:LayerNorm", normalized_shape=26),
        ),
        partial(padded_cases, 26, tokens=11),
        whole_model=True,
    ),
    Twin(
        "convolution-layer",
        "nn.layers.convolution_layer:ConvolutionLayer",
        "a layer with a convolution over its neighbours beside it",
        DEBERTA,
        dict(BESIDE, layer=Part("nn.layers.encoder_layer:EncoderLayer", **DECODER_LAYER), kernel_size=5),
        partial(padded_cases, 26),
    ),
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
        "stack",
        "nn.layers.stack:Stack",
        "any layers one after another: here with a window and without, norms before and after each branch",
        "Gemma 2 (arXiv 2408.00118)",
        dict(
            layers=[Part("nn.layers.decoder_layer:DecoderLayer", **layer) for layer in GEMMA_LAYERS],
            norm=Part("nn.primitives:RMSNorm", normalized_shape=23, unit_offset=True),
        ),
        partial(decoder_only_cases, 23),
    ),
    Twin(
        "stack-shared-positions",
        "nn.layers.stack:Stack",
        "layers that share one table of biases for relative positions, and dropout behind the norm",
        "Raffel et al. (arXiv 1910.10683)",
        dict(
            layers=[Part("nn.layers.encoder_layer:EncoderLayer", **T5_LAYER)] * 2,
            norm=Part("nn.primitives:RMSNorm", normalized_shape=23),
            positions=Part("nn.positions.t5:T5Positions", num_heads=3, num_buckets=6, max_distance=5),
            dropout=0.2,
        ),
        partial(encoder_layer_cases, 23),
    ),
    Twin(
        "stack-repeated",
        "nn.layers.stack:Stack",
        "two layers that run three times, in two loops",
        "Lan et al. (arXiv 1909.11942)",
        dict(
            layers=[Part("nn.layers.encoder_layer:EncoderLayer", embed_dim=23, num_heads=1, hidden_dim=29)]
            * 2,
            repeats=3,
            scan=True,
        ),
        partial(batched_token_cases, 23),
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
