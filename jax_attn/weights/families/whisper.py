"""Whisper: sound to text. A convolution stem, sinusoids in halves, and a decoder with learned positions."""

from typing import Any

from jax_attn.functional.activations import ACTIVATIONS
from jax_attn.models.audio_encoder import AudioEncoder
from jax_attn.models.encoder_decoder import EncoderDecoder
from jax_attn.models.part import Part
from jax_attn.models.seq2seq_lm import Seq2SeqLM
from jax_attn.models.text_decoder import TextDecoder
from jax_attn.nn.attention.multi_head import MultiHeadAttention
from jax_attn.nn.layers.causal_lm_head import CausalLMHead
from jax_attn.nn.layers.convolution_stem import ConvolutionStem
from jax_attn.nn.layers.decoder_layer import DecoderLayer
from jax_attn.nn.layers.embeddings import Embeddings
from jax_attn.nn.layers.encoder_layer import EncoderLayer
from jax_attn.nn.layers.feed_forward import FeedForward
from jax_attn.nn.layers.stack import Stack
from jax_attn.nn.layers.tied_head import TiedHead
from jax_attn.nn.positions.sinusoidal import SinusoidalPositions
from jax_attn.nn.primitives import LayerNorm
from jax_attn.weights.config import ConfigRules
from jax_attn.weights.family import Family, Head, Settings

TABLE = "decoder.embeddings.token.weight"
DEFAULTS: dict[str, Any] = {
    "vocab_size": 51865,
    "num_mel_bins": 80,
    "encoder_layers": 4,
    "encoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
    "decoder_layers": 4,
    "decoder_attention_heads": 6,
    "decoder_ffn_dim": 1536,
    "activation_function": "gelu",
    "d_model": 384,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "max_source_positions": 1500,
    "max_target_positions": 448,
    "pad_token_id": 50256,
    "tie_word_embeddings": True,
}

NAMES = (
    (r"\bencoder\.stem\.", "encoder."),
    (r"\bencoder\.positions\.table$", "encoder.embed_positions.weight"),
    (r"\bdecoder\.embeddings\.token\.", "decoder.embed_tokens."),
    (r"\bdecoder\.embeddings\.position\.", "decoder.embed_positions."),
    (r"\b(encoder|decoder)\.\1\.norm\.", r"\1.layer_norm."),
    (r"\b(encoder|decoder)\.\1\.", r"\1."),
    (r"\bcross_attention\.", "encoder_attn."),
    (r"\bcross_attention_norm\.", "encoder_attn_layer_norm."),
    (r"\battention\.", "self_attn."),
    (r"\battention_norm\.", "self_attn_layer_norm."),
    (r"\bfeed_forward\.up\.", "fc1."),
    (r"\bfeed_forward\.down\.", "fc2."),
    (r"\bfeed_forward_norm\.", "final_layer_norm."),
)


def attention(config: Settings, heads: int, is_causal: bool = False) -> Part:
    """Attention whose keys have no bias."""
    return Part(
        MultiHeadAttention,
        embed_dim=config.d_model,
        num_heads=heads,
        bias=("q", "v", "out"),
        dropout=config.attention_dropout,
        is_causal=is_causal,
    )


def stack(config: Settings, decoder: bool) -> Part:
    """The layers of one side, in pre-norm, with the norm behind them."""
    heads = config.decoder_attention_heads if decoder else config.encoder_attention_heads
    options = {
        "embed_dim": config.d_model,
        "norm_placement": "pre",
        "dropout": config.dropout,
        "eps": 1e-5,
        "attention": attention(config, heads, is_causal=decoder),
        "feed_forward": Part(
            FeedForward,
            embed_dim=config.d_model,
            hidden_dim=config.decoder_ffn_dim if decoder else config.encoder_ffn_dim,
            activation=config.activation_function,
            dropout=config.dropout,
            activation_dropout=config.activation_dropout,
        ),
    }
    layer = (
        Part(DecoderLayer, cross_attention=attention(config, heads), **options)
        if decoder
        else Part(EncoderLayer, **options)
    )
    return Part(
        Stack,
        layers=[layer] * (config.decoder_layers if decoder else config.encoder_layers),
        norm=Part(LayerNorm, normalized_shape=config.d_model),
        scan=config.scan,
        remat=config.remat,
    )


def model(config: Settings) -> Part:
    """Both sides, without a head."""
    encoder = Part(
        AudioEncoder,
        stem=Part(ConvolutionStem, num_features=config.num_mel_bins, embed_dim=config.d_model),
        positions=Part(
            SinusoidalPositions,
            num_embeddings=config.max_source_positions,
            embedding_dim=config.d_model,
            layout="halves",
            persistent=True,
        ),
        encoder=stack(config, decoder=False),
        dropout=config.dropout,
    )
    decoder = Part(
        TextDecoder,
        embeddings=Part(
            Embeddings,
            vocab_size=config.vocab_size,
            embed_dim=config.d_model,
            max_positions=config.max_target_positions,
            num_segments=0,
            dropout=config.dropout,
            padding_idx=config.pad_token_id,
            norm=None,
        ),
        decoder=stack(config, decoder=True),
    )
    return Part(EncoderDecoder, encoder=encoder, decoder=decoder)


def seq2seq_lm(model: Part, config: Settings) -> Part:
    """The model that writes down what it hears."""
    if config.tie_word_embeddings:
        return Part(Seq2SeqLM, model=model, head=Part(TiedHead, vocab_size=config.vocab_size))
    head = Part(CausalLMHead, embed_dim=config.d_model, vocab_size=config.vocab_size)
    return Part(Seq2SeqLM, model=model, head=head)


WHISPER = Family(
    name="Whisper",
    model_types=("whisper",),
    rules=ConfigRules(
        defaults=DEFAULTS,
        optional=("pad_token_id",),
        choices={"activation_function": tuple(ACTIVATIONS)},
        ordinary={
            "is_encoder_decoder": True,
            "encoder_layerdrop": 0.0,
            "decoder_layerdrop": 0.0,
            "apply_spec_augment": False,
        },
        # num_hidden_layers is encoder_layers once more; scale_embedding has no effect in transformers either.
        neutral=(
            "num_hidden_layers",
            "begin_suppress_tokens",
            "alignment_heads",
            "classifier_proj_size",
            "init_std",
            "mask_feature_length",
            "mask_feature_min_masks",
            "mask_feature_prob",
            "mask_time_length",
            "mask_time_min_masks",
            "mask_time_prob",
            "median_filter_width",
            "scale_embedding",
            "use_weighted_layer_sum",
        ),
    ),
    build=model,
    names=NAMES,
    anchor=TABLE,
    heads={
        "WhisperForConditionalGeneration": Head(
            seq2seq_lm, ((r"^head\.linear\.", "proj_out."),), tied={"proj_out.weight": TABLE}
        )
    },
    prefix="model.",
    others=("proj_out.", "projector.", "classifier.", "layer_weights"),
)
