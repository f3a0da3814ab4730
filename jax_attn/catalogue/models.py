"""The rows of `models/`."""

from functools import partial

import numpy as np

from jax_attn.catalogue.cases import EXACT, grid_cases, hidden_patch_cases, text_cases, translation_cases
from jax_attn.catalogue.twin import ATTENTION_PAPER, BERT, NLP_TRANSFORMERS, Twin
from jax_attn.models.part import Part
from jax_attn.parity.cases import Case
from jax_attn.weights.families.gemma2 import GEMMA2

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

GEMMA2_TINY = dict(
    vocab_size=31,
    hidden_size=26,
    intermediate_size=29,
    num_hidden_layers=4,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=4,
    query_pre_attn_scalar=7,
    sliding_window=2,
    attention_dropout=0.2,
    attn_logit_softcapping=2.0,
    final_logit_softcapping=3.0,
    scan=True,
    remat=False,
)

GPT = "Radford et al., GPT-2 (2019)"
T5 = "Raffel et al. (arXiv 1910.10683)"
VOCABULARY = 31


def decoded_cases(tokens: int = 5, batch: int = 3) -> list[Case]:
    """Ids alone; then with padding in front and behind, and a sequence of nothing else."""
    ids = np.random.default_rng(5).integers(VOCABULARY, size=(batch, tokens))
    padding = np.arange(tokens) < np.array([[tokens - 2], [tokens], [0]])
    padding[1, :2] = False
    return [Case("plain", (ids,)), Case("padding", (ids, padding.astype(np.int64)), lanes=EXACT)]


def packed_cases() -> list[Case]:
    """The same, and several texts to a row, with padding behind them."""
    plain, *_ = cases = decoded_cases()
    segments = np.array([[1, 1, 2, 2, 2], [7, 7, 7, 7, 0], [1, 2, 3, 4, 5]])
    return [*cases, Case("packed", plain.args, {"segment_ids": segments}, EXACT)]


def packed_text_cases() -> list[Case]:
    """What a tokenizer gives, and several texts to a row, of which padding is not attended to."""
    cases = text_cases(VOCABULARY, context=11)
    ids = cases[0].args[0]
    segments = np.array([[1, 1, 2, 2, 2], [7, 7, 7, 7, 0], [1, 2, 3, 4, 5]])
    return [*cases, Case("packed", (ids, segments != 0), {"segment_ids": segments}, EXACT)]


def embeddings(width: int, positions: int | None, segments: int = 0) -> Part:
    """Tokens and, where `positions` are learned here, where they stand."""
    return Part(
        "nn.layers.embeddings:Embeddings",
        vocab_size=VOCABULARY,
        embed_dim=width,
        max_positions=positions,
        num_segments=segments,
        positions=None if positions is None else "learned",
        norm="layer" if segments else None,
    )


def text_encoder(pooler: bool = True) -> Part:
    """A layer of an encoder."""
    layer = Part(
        "nn.layers.encoder_layer:EncoderLayer", embed_dim=26, num_heads=2, hidden_dim=29, dropout=0.2
    )
    return Part(
        "models.text_encoder:TextEncoder",
        embeddings=embeddings(26, 11, segments=2),
        encoder=Part("nn.layers.stack:Stack", layers=[layer]),
        pooler=Part("nn.layers.pooler:Pooler", embed_dim=26) if pooler else None,
    )


def text_decoder(rotary: bool = False, dropout: float = 0.0) -> Part:
    """A layer of a decoder, whose positions are rotated in its attention or learned."""
    attention = Part(
        "nn.attention.multi_head:MultiHeadAttention",
        embed_dim=26,
        num_heads=6,
        num_kv_heads=2,
        head_dim=4,
        is_causal=True,
        positions=Part("nn.positions.rotary:RotaryPositions", head_dim=4) if rotary else None,
    )
    layer = Part(
        "nn.layers.decoder_layer:DecoderLayer",
        embed_dim=26,
        hidden_dim=29,
        norm_placement="pre",
        dropout=dropout,
        attention=attention,
    )
    norm = Part("nn.primitives:LayerNorm", normalized_shape=26)
    return Part(
        "models.text_decoder:TextDecoder",
        embeddings=embeddings(26, None if rotary else 11),
        decoder=Part("nn.layers.stack:Stack", layers=[layer], norm=norm),
    )


def encoder_decoder(dropout: float = 0.0, scan: bool = False) -> Part:
    """A layer on each side, or two that are stacked, whose scores are not scaled."""

    def side(bidirectional: bool) -> Part:
        attention = dict(embed_dim=22, num_heads=3, head_dim=4, bias=False, scale=1.0)
        layer = dict(
            embed_dim=22,
            hidden_dim=29,
            activation="relu",
            norm_placement="pre",
            norm="rms",
            dropout=dropout,
            attention=Part(
                "nn.attention.multi_head:MultiHeadAttention", is_causal=not bidirectional, **attention
            ),
        )
        if bidirectional:
            part = Part("nn.layers.encoder_layer:EncoderLayer", **layer)
        else:
            cross_attention = Part("nn.attention.multi_head:MultiHeadAttention", **attention)
            part = Part("nn.layers.decoder_layer:DecoderLayer", cross_attention=cross_attention, **layer)
        positions = dict(num_heads=3, num_buckets=4, max_distance=3, bidirectional=bidirectional)
        return Part(
            "nn.layers.stack:Stack",
            layers=[part] * (2 if scan else 1),
            norm=Part("nn.primitives:RMSNorm", normalized_shape=22),
            positions=Part("nn.positions.t5:T5Positions", **positions),
            dropout=dropout,
            scan=scan,
        )

    decoder = Part(
        "models.text_decoder:TextDecoder", embeddings=embeddings(22, None), decoder=side(bidirectional=False)
    )
    return Part(
        "models.encoder_decoder:EncoderDecoder",
        encoder=side(bidirectional=True),
        decoder=decoder,
        shared_embeddings=True,
    )


def translated_cases(tokens: int = 5, others: int = 7, batch: int = 3) -> list[Case]:
    """Ids of two lengths; then with padding in front and behind."""
    rng = np.random.default_rng(6)
    ids, read = (rng.integers(VOCABULARY, size=(batch, size)) for size in (tokens, others))
    mask = np.arange(others) < np.array([[others], [others - 3], [others]])
    of_ids = np.arange(tokens) < np.array([[tokens], [tokens], [tokens - 2]])
    mask[2, :2] = of_ids[1, 0] = False
    padding = (read, ids, mask.astype(np.int64), of_ids.astype(np.int64))
    return [Case("plain", (read, ids)), Case("padding in both", padding, lanes=EXACT)]


def vision_transformer() -> Part:
    """A layer of a ViT, with registers and a mask token before it."""
    layer = Part(
        "nn.layers.encoder_layer:EncoderLayer",
        embed_dim=26,
        num_heads=2,
        hidden_dim=29,
        norm_placement="pre",
        dropout=0.2,
    )
    return Part(
        "models.vision_transformer:VisionTransformer",
        embeddings=Part(
            "nn.layers.patch_embeddings:PatchEmbeddings",
            image_size=(4, 6),
            patch_size=(2, 3),
            num_channels=3,
            embed_dim=26,
            num_registers=2,
            mask_token=True,
        ),
        encoder=Part("nn.layers.stack:Stack", layers=[layer]),
        pooler=Part("nn.layers.pooler:Pooler", embed_dim=26),
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
        "text-encoder",
        "models.text_encoder:TextEncoder",
        "any embeddings, layers and pooler, to a vector for each token and one for the text",
        BERT,
        text_encoder().arguments,
        packed_text_cases,
        whole_model=True,
    ),
    Twin(
        "task-model",
        "models.task_model:TaskModel",
        "a model and what a task makes of its tokens",
        BERT,
        dict(
            model=text_encoder(pooler=False),
            head=Part("nn.layers.span_head:SpanHead", embed_dim=26),
        ),
        partial(text_cases, VOCABULARY, context=11),
        whole_model=True,
    ),
    Twin(
        "task-model-text",
        "models.task_model:TaskModel",
        "the same of the vector that its pooler made of the text",
        BERT,
        dict(
            model=text_encoder(),
            head=Part("nn.primitives:Linear", in_features=26, out_features=5),
            reads="text",
        ),
        partial(text_cases, VOCABULARY, context=11),
        whole_model=True,
    ),
    Twin(
        "task-model-tied",
        "models.task_model:TaskModel",
        "the same of its tokens and the table of its embeddings",
        BERT,
        dict(
            model=text_encoder(pooler=False),
            head=Part("nn.layers.masked_lm_head:MaskedLMHead", embed_dim=26, vocab_size=VOCABULARY),
            reads="tokens_and_table",
        ),
        partial(text_cases, VOCABULARY, context=11),
        whole_model=True,
    ),
    Twin(
        "task-model-last",
        "models.task_model:TaskModel",
        "the same of the last of its tokens that is no padding",
        GPT,
        dict(
            model=text_decoder(),
            head=Part(
                "nn.layers.classification_head:ClassificationHead",
                embed_dim=26,
                num_classes=5,
                pooling="last",
                bias=False,
            ),
            reads="tokens_and_mask",
        ),
        decoded_cases,
        whole_model=True,
    ),
    Twin(
        "vision-transformer",
        "models.vision_transformer:VisionTransformer",
        "an encoder of images, channels first, and of what hides some of their patches",
        "Dosovitskiy et al. (arXiv 2010.11929)",
        vision_transformer().arguments,
        partial(hidden_patch_cases, (3, 4, 6), 4, name="bool_masked_pos"),
        whole_model=True,
    ),
    Twin(
        "text-decoder",
        "models.text_decoder:TextDecoder",
        "any embeddings and causal layers; tokens are counted without padding",
        GPT,
        text_decoder(dropout=0.2).arguments,
        packed_cases,
        whole_model=True,
    ),
    Twin(
        "causal-lm",
        "models.causal_lm:CausalLM",
        "a decoder and a head of its own",
        GPT,
        dict(
            model=text_decoder(rotary=True),
            head=Part("nn.layers.causal_lm_head:CausalLMHead", embed_dim=26, vocab_size=VOCABULARY),
        ),
        packed_cases,
        whole_model=True,
    ),
    Twin(
        "causal-lm-tied",
        "models.causal_lm:CausalLM",
        "the same with the table of its embeddings for a head",
        GPT,
        dict(
            model=text_decoder(),
            head=Part("nn.layers.tied_head:TiedHead", vocab_size=VOCABULARY),
        ),
        decoded_cases,
        whole_model=True,
    ),
    Twin(
        "causal-lm-gemma2",
        "models.causal_lm:CausalLM",
        "Gemma 2: norms on both sides of a branch, capped scores, a window in every other layer",
        "Gemma 2 (arXiv 2408.00118)",
        GEMMA2.part("Gemma2ForCausalLM", {**GEMMA2.rules.defaults, **GEMMA2_TINY}).arguments,
        decoded_cases,
        whole_model=True,
    ),
    Twin(
        "encoder-decoder",
        "models.encoder_decoder:EncoderDecoder",
        "one sequence to another, with one table of embeddings, and one of relative positions for each side",
        T5,
        encoder_decoder(dropout=0.2).arguments,
        translated_cases,
        whole_model=True,
    ),
    Twin(
        "seq2seq-lm",
        "models.seq2seq_lm:Seq2SeqLM",
        "an encoder-decoder whose scores come from the table of its embeddings, scaled",
        T5,
        dict(
            model=encoder_decoder(scan=True),
            head=Part("nn.layers.tied_head:TiedHead", vocab_size=VOCABULARY, scale=0.3),
        ),
        translated_cases,
        whole_model=True,
    ),
    Twin(
        "audio-encoder",
        "models.audio_encoder:AudioEncoder",
        "a spectrogram through convolutions and layers, where sines tell the frames apart",
        "Radford et al. (arXiv 2212.04356)",
        dict(
            stem=Part("nn.layers.convolution_stem:ConvolutionStem", num_features=5, embed_dim=26),
            positions=Part(
                "nn.positions.sinusoidal:SinusoidalPositions",
                num_embeddings=7,
                embedding_dim=26,
                layout="halves",
                persistent=True,
            ),
            encoder=Part(
                "nn.layers.stack:Stack",
                layers=[
                    Part("nn.layers.encoder_layer:EncoderLayer", embed_dim=26, num_heads=2, hidden_dim=29)
                ],
            ),
            dropout=0.2,
        ),
        partial(grid_cases, (5, 11)),
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
