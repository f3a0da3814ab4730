"""BERT's encoder as a part, for the families that share it: only what they say of their embeddings differs."""

from typing import Any

from jax_attn.models.part import Part
from jax_attn.models.text_encoder import TextEncoder
from jax_attn.nn.layers.embeddings import Embeddings
from jax_attn.nn.layers.encoder import Encoder
from jax_attn.nn.layers.encoder_layer import EncoderLayer
from jax_attn.nn.layers.feed_forward import FeedForward
from jax_attn.nn.layers.pooler import Pooler
from jax_attn.weights.family import Settings
from jax_attn.weights.rules import Names

DEFAULTS: dict[str, Any] = {
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}

EMBEDDING_NAMES: Names = (
    (r"\bembeddings\.token\.", "embeddings.word_embeddings."),
    (r"\bembeddings\.position\.", "embeddings.position_embeddings."),
    (r"\bembeddings\.segment\.", "embeddings.token_type_embeddings."),
    (r"\bembeddings\.norm\.", "embeddings.LayerNorm."),
)
LAYER_NAMES: Names = (
    (r"\bencoder\.layers\.", "encoder.layer."),
    (r"\battention\.q_proj\.", "attention.self.query."),
    (r"\battention\.k_proj\.", "attention.self.key."),
    (r"\battention\.v_proj\.", "attention.self.value."),
    (r"\battention\.out_proj\.", "attention.output.dense."),
    (r"\battention_norm\.", "attention.output.LayerNorm."),
    (r"\bfeed_forward\.up\.", "intermediate.dense."),
    (r"\bfeed_forward\.down\.", "output.dense."),
    (r"\bfeed_forward_norm\.", "output.LayerNorm."),
)
CONSTANTS = ("embeddings.position_ids", "embeddings.token_type_ids")  # 0, 1, 2, … and zeros


def text_encoder(config: Settings, encoder: Part | None = None, **embeddings: Any) -> Part:
    """The model without a head.

    Args:
        config: the settings, by their names in BERT's `config.json`.
        encoder: the layers; None is a stack of BERT's.
        embeddings: arguments of `Embeddings` that are others than BERT's.
    """
    given = {
        "vocab_size": config.vocab_size,
        "embed_dim": config.hidden_size,
        "max_positions": config.max_position_embeddings,
        "num_segments": config.type_vocab_size,
        "dropout": config.hidden_dropout_prob,
        "eps": config.layer_norm_eps,
        "padding_idx": config.pad_token_id,
    }
    return Part(
        TextEncoder,
        embeddings=Part(Embeddings, **{**given, **embeddings}),
        encoder=post_norm_layers(config) if encoder is None else encoder,
        pooler=Part(Pooler, embed_dim=config.hidden_size)
        if getattr(config, "add_pooling_layer", False)
        else None,
    )


def post_norm_layers(config: Settings) -> Part:
    """BERT's stack of layers."""
    return Part(
        Encoder,
        num_layers=config.num_hidden_layers,
        embed_dim=config.hidden_size,
        num_heads=config.num_attention_heads,
        hidden_dim=config.intermediate_size,
        activation=config.hidden_act,
        dropout=config.hidden_dropout_prob,
        attention_dropout=config.attention_probs_dropout_prob,
        eps=config.layer_norm_eps,
        scan=config.scan,
        remat=config.remat,
    )


def post_norm_layer(config: Settings, dropout: float, feed_forward_dropout: float) -> Part:
    """A layer of BERT's, with a probability of its own for dropping what each of its two parts gives."""
    return Part(
        EncoderLayer,
        embed_dim=config.hidden_size,
        num_heads=config.num_attention_heads,
        dropout=dropout,
        attention_dropout=config.attention_probs_dropout_prob,
        eps=config.layer_norm_eps,
        feed_forward=Part(
            FeedForward,
            embed_dim=config.hidden_size,
            hidden_dim=config.intermediate_size,
            activation=config.hidden_act,
            dropout=feed_forward_dropout,
        ),
    )
