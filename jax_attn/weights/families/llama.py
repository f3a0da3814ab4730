"""Llama 2 and 3: RMS norms, rotary positions, grouped queries and a gated feed-forward."""

from typing import Any

from jax_attn.functional.activations import ACTIVATIONS
from jax_attn.models.causal_lm import CausalLM
from jax_attn.models.part import Part
from jax_attn.models.text_decoder import TextDecoder
from jax_attn.nn.attention.multi_head import MultiHeadAttention
from jax_attn.nn.layers.causal_lm_head import CausalLMHead
from jax_attn.nn.layers.decoder_layer import DecoderLayer
from jax_attn.nn.layers.embeddings import Embeddings
from jax_attn.nn.layers.gated_feed_forward import GatedFeedForward
from jax_attn.nn.layers.stack import Stack
from jax_attn.nn.layers.tied_head import TiedHead
from jax_attn.nn.positions.rotary import RotaryPositions
from jax_attn.nn.primitives import RMSNorm
from jax_attn.weights.config import ConfigRules
from jax_attn.weights.family import Family, Head, Settings

DEFAULTS: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "rope_theta": 10000.0,
    "pad_token_id": None,
}


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """`rope_parameters`, which transformers 5 writes, as `rope_theta`."""
    rotary = config.pop("rope_parameters", None) or {}
    config.setdefault("rope_theta", rotary.get("rope_theta", 10000.0))
    return config


NAMES = (
    (r"\bembeddings\.token\.", "embed_tokens."),
    (r"\bdecoder\.norm\.", "norm."),
    (r"\bdecoder\.layers\.", "layers."),
    (r"\battention\.out_proj\.", "self_attn.o_proj."),
    (r"\battention\.", "self_attn."),
    (r"\battention_norm\.", "input_layernorm."),
    (r"\bfeed_forward_norm\.", "post_attention_layernorm."),
    (r"\bfeed_forward\.(gate|up|down)\.", r"mlp.\1_proj."),
)


def decoder(config: Settings) -> Part:
    """The model without its head."""
    width = config.hidden_size
    head_dim = width // config.num_attention_heads
    layer = Part(
        DecoderLayer,
        embed_dim=width,
        norm_placement="pre",
        norm="rms",
        eps=config.rms_norm_eps,
        attention=Part(
            MultiHeadAttention,
            embed_dim=width,
            num_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            head_dim=head_dim,
            bias=False,
            is_causal=True,
            positions=Part(RotaryPositions, head_dim=head_dim, base=config.rope_theta),
        ),
        feed_forward=Part(
            GatedFeedForward,
            embed_dim=width,
            hidden_dim=config.intermediate_size,
            activation=config.hidden_act,
        ),
    )
    return Part(
        TextDecoder,
        embeddings=Part(
            Embeddings,
            vocab_size=config.vocab_size,
            embed_dim=width,
            max_positions=None,
            num_segments=0,
            positions=None,
            padding_idx=config.pad_token_id,
            norm=None,
        ),
        decoder=Part(
            Stack,
            layers=[layer] * config.num_hidden_layers,
            norm=Part(RMSNorm, normalized_shape=width, eps=config.rms_norm_eps),
            scan=config.scan,
            remat=config.remat,
        ),
    )


def causal_lm(model: Part, config: Settings) -> Part:
    """The language model, whose head may be tied to the embeddings."""
    if config.tie_word_embeddings:
        return Part(CausalLM, model=model, head=Part(TiedHead, vocab_size=config.vocab_size))
    head = Part(CausalLMHead, embed_dim=config.hidden_size, vocab_size=config.vocab_size)
    return Part(CausalLM, model=model, head=head)


LLAMA = Family(
    name="Llama",
    model_types=("llama",),
    rules=ConfigRules(
        defaults=DEFAULTS,
        choices={"hidden_act": tuple(ACTIVATIONS)},
        ordinary={"attention_bias": False, "mlp_bias": False, "attention_dropout": 0.0, "pretraining_tp": 1},
        optional=("pad_token_id",),
        neutral=("head_dim",),
        prepare=flat,
    ),
    build=decoder,
    names=NAMES,
    anchor="embeddings.token.weight",
    heads={"LlamaForCausalLM": Head(causal_lm, ((r"^head\.linear\.", "lm_head."),))},
    prefix="model.",
    others=("lm_head.", "score."),
)
