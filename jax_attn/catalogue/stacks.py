"""The rows of layers of attention and feed-forward, and of stacks of them."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from jax_attn.catalogue.cases import EXACT, batched_token_cases, mask_cases, pooling_cases, token_cases
from jax_attn.catalogue.twin import ATTENTION_PAPER, MODERNBERT, Twin
from jax_attn.functional.deepnorm import deepnorm_scales
from jax_attn.models.part import Part
from jax_attn.parity.cases import Case

DEBERTA = "DeBERTa (arXiv 2006.03754)"
ENCODER_LAYER = dict(embed_dim=91, num_heads=7, hidden_dim=113, dropout=0.2, attention_dropout=0.3)
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


STACKS = [
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
]
