"""What decoder families share: pre-norm layers with rotary positions, grouped queries and a gated feed-forward."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from jax_attn.functional.activations import ACTIVATIONS
from jax_attn.models.part import Part
from jax_attn.models.text_decoder import TextDecoder
from jax_attn.nn.attention.multi_head import MultiHeadAttention
from jax_attn.nn.layers.decoder_layer import DecoderLayer
from jax_attn.nn.layers.embeddings import Embeddings
from jax_attn.nn.layers.gated_feed_forward import GatedFeedForward
from jax_attn.nn.layers.stack import Stack
from jax_attn.nn.primitives import RMSNorm
from jax_attn.weights.config import ConfigRules
from jax_attn.weights.families import rotary_config
from jax_attn.weights.families.decoder_heads import HEAD_NULLABLE, without_padding_of_minus_one
from jax_attn.weights.family import Settings

FULL, SLIDING = "full_attention", "sliding_attention"

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
# What old files keep of the rotary positions.
CONSTANTS = ("rotary_emb.inv_freq", "layers.*.rotary_emb.inv_freq")

DEFAULTS: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": None,
    "head_dim": None,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "attention_dropout": 0.0,
    "tie_word_embeddings": False,
    "pad_token_id": None,
    **rotary_config.DEFAULTS,
}
NULLABLE = {
    "num_key_value_heads": int,
    "head_dim": int,
    "attention_dropout": float,
    "sliding_window": int,
    "layer_types": list,
    **rotary_config.NULLABLE,
    **HEAD_NULLABLE,
}


def decoder_rules(
    defaults: Mapping[str, Any],
    nullable: Mapping[str, type] | None = None,
    ordinary: Mapping[str, Any] | None = None,
    neutral: Sequence[str] = (),
    activation: str = "hidden_act",
) -> ConfigRules:
    """What the `config.json` of such a family may say: what all may, and what is its own."""
    return ConfigRules(
        defaults={**DEFAULTS, **defaults},
        optional=("pad_token_id", "max_window_layers"),
        nullable={**NULLABLE, **(nullable or {})},
        choices={activation: tuple(ACTIVATIONS)},
        ordinary={"rope_interleaved": False, "partial_rotary_factor": 1.0, **(ordinary or {})},
        neutral=("pretraining_tp", "classifier_dropout", "max_sequence_length", *neutral),
        prepare=without_padding_of_minus_one,
    )


def gated_layer(
    config: Settings,
    window: int | None = None,
    activation: str | None = None,
    norm: str = "rms",
    norm_placement: str = "pre",
    mlp_bias: bool = False,
    **attention: Any,
) -> Part:
    """One layer; `attention` are further arguments of its attention."""
    head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
    return Part(
        DecoderLayer,
        embed_dim=config.hidden_size,
        norm_placement=norm_placement,
        norm=norm,
        eps=config.rms_norm_eps,
        attention=Part(
            MultiHeadAttention,
            embed_dim=config.hidden_size,
            num_heads=config.num_attention_heads,
            num_kv_heads=config.num_key_value_heads,
            head_dim=head_dim,
            dropout=float(config.attention_dropout or 0),
            is_causal=True,
            window=window,
            positions=rotary_config.rotary_positions(config, head_dim),
            **attention,
        ),
        feed_forward=Part(
            GatedFeedForward,
            embed_dim=config.hidden_size,
            hidden_dim=config.intermediate_size,
            activation=activation or config.hidden_act,
            bias=mlp_bias,
        ),
    )


def gated_decoder(
    config: Settings,
    layer: Callable[[Any], Part],
    windows: Sequence[int | None] | None = None,
    norm: str = "rms",
    scaled: bool = False,
) -> Part:
    """The model without its head, of a `layer` for the window of each; None is no window in any."""
    embeddings = Part(
        Embeddings,
        vocab_size=config.vocab_size,
        embed_dim=config.hidden_size,
        max_positions=None,
        num_segments=0,
        positions=None,
        padding_idx=config.pad_token_id,
        norm=None,
        scaled=scaled,
    )
    last = Part(
        RMSNorm, normalized_shape=config.hidden_size, eps=config.rms_norm_eps, unit_offset=norm != "rms"
    )
    windows = [None] * config.num_hidden_layers if windows is None else windows
    return Part(TextDecoder, embeddings=embeddings, decoder=layer_stack(config, layer, windows, last))


def layer_stack(
    config: Settings, layer: Callable[[Any], Part], kinds: Sequence[Hashable], norm: Part
) -> Part:
    """Layers of these kinds, one after another; those of one kind are alike."""
    parts = {kind: layer(kind) for kind in kinds}
    count = len(kinds)
    period = next(
        n for n in range(1, count + 1) if count % n == 0 and [*kinds[:n]] * (count // n) == [*kinds]
    )
    return Part(
        Stack,
        layers=[parts[kind] for kind in kinds],
        norm=norm,
        scan=config.scan,
        remat=config.remat,
        period=period,
    )


def windows_of(config: Settings, layer_types: Sequence[str]) -> list[int | None]:
    """The window of each layer: `sliding_window` where `layer_types` says so.

    Args:
        config: the settings.
        layer_types: those where `config.json` has none.

    Raises:
        ValueError: there is not one type for each layer, one is not known, or there is no window.
    """
    given = list(config.layer_types or layer_types)
    if len(given) != config.num_hidden_layers:
        raise ValueError(
            f"layer_types must have one of num_hidden_layers={config.num_hidden_layers}, got {len(given)}"
        )
    for each in given:
        if each not in (FULL, SLIDING):
            raise ValueError(f"layer_types: {each!r} is not supported, only {FULL!r} and {SLIDING!r}")
    if SLIDING in given and config.sliding_window is None:
        raise ValueError(f"layer_types has {SLIDING!r} layers, and sliding_window is null")
    return [config.sliding_window if each == SLIDING else None for each in given]
