"""GPT-2: learned positions, layer norms, and projections that the files keep transposed and fused."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from flax import nnx

from jax_attn.functional.activations import ACTIVATIONS
from jax_attn.functional.checks import require_divisible
from jax_attn.models.part import Part
from jax_attn.models.text_decoder import TextDecoder
from jax_attn.nn.attention.multi_head import MultiHeadAttention
from jax_attn.nn.layers.decoder_layer import DecoderLayer
from jax_attn.nn.layers.embeddings import Embeddings
from jax_attn.nn.primitives import LayerNorm, Linear
from jax_attn.weights.config import ConfigRules
from jax_attn.weights.families.decoder_heads import (
    HEAD_NULLABLE,
    OTHERS,
    decoder_heads,
    without_padding_of_minus_one,
)
from jax_attn.weights.families.decoder_parts import layer_stack
from jax_attn.weights.family import Family, Settings, normal_weights

DEFAULTS: dict[str, Any] = {
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_inner": None,
    "activation_function": "gelu_new",
    "resid_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "attn_pdrop": 0.1,
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "tie_word_embeddings": True,
    "pad_token_id": None,
}
OTHER_WORDS = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
NAMES = (
    (r"\bembeddings\.token\.", "wte."),
    (r"\bembeddings\.position\.", "wpe."),
    (r"\bdecoder\.norm\.", "ln_f."),
    (r"\bdecoder\.layers\.", "h."),
    *((rf"\battention\.{name}_proj\.(\w+)$", rf"attn.c_attn.\1[{i}].T") for i, name in enumerate("qkv")),
    (r"\battention\.out_proj\.(\w+)$", r"attn.c_proj.\1.T"),
    (r"\battention_norm\.", "ln_1."),
    (r"\bfeed_forward_norm\.", "ln_2."),
    (r"\bfeed_forward\.up\.(\w+)$", r"mlp.c_fc.\1.T"),
    (r"\bfeed_forward\.down\.(\w+)$", r"mlp.c_proj.\1.T"),
)


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """The same in GPT-2's own words."""
    return without_padding_of_minus_one(
        {OTHER_WORDS.get(name, name): value for name, value in config.items()}
    )


def layer(config: Settings, scale: float) -> Part:
    """One layer, whose scores are multiplied by `scale`."""
    return Part(
        DecoderLayer,
        embed_dim=config.n_embd,
        hidden_dim=config.n_inner or 4 * config.n_embd,
        activation=config.activation_function,
        norm_placement="pre",
        dropout=config.resid_pdrop,
        eps=config.layer_norm_epsilon,
        attention=Part(
            MultiHeadAttention,
            embed_dim=config.n_embd,
            num_heads=config.n_head,
            dropout=config.attn_pdrop,
            is_causal=True,
            scale=scale,
        ),
    )


def decoder(config: Settings) -> Part:
    """The model without its head."""
    width = config.n_embd
    scale = (
        require_divisible("n_embd", width, "n_head", config.n_head) ** -0.5
        if config.scale_attn_weights
        else 1.0
    )
    by_layer = config.scale_attn_by_inverse_layer_idx
    scales = [scale / (index + 1) if by_layer else scale for index in range(config.n_layer)]
    last = Part(LayerNorm, normalized_shape=width, eps=config.layer_norm_epsilon)
    return Part(
        TextDecoder,
        embeddings=Part(
            Embeddings,
            vocab_size=config.vocab_size,
            embed_dim=width,
            max_positions=config.n_positions,
            num_segments=0,
            dropout=config.embd_pdrop,
            norm=None,
        ),
        decoder=layer_stack(config, partial(layer, config), scales, last),
    )


def draw(module: nnx.Module, config: Mapping[str, Any]) -> None:
    """The initial weights: what each of the `2 n_layer` branches adds is narrower by the root of their number.

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners", section 2.3.
    """
    normal_weights(module, config)
    branches = 2 * prepared({**DEFAULTS, **config})["n_layer"]
    for path, node in nnx.iter_modules(module, graph=True):
        if isinstance(node, Linear) and path[-1] in ("out_proj", "down"):
            node.kernel.set_value(node.kernel[...] * branches**-0.5)


GPT2 = Family(
    name="GPT2",
    model_types=("gpt2",),
    rules=ConfigRules(
        defaults=DEFAULTS,
        optional=("pad_token_id",),
        nullable={"n_inner": int, **HEAD_NULLABLE},
        choices={"activation_function": tuple(ACTIVATIONS)},
        # The last is about rounding in 16 bits, where scores are in float32 here in any case.
        neutral=(
            "n_ctx",
            "n_special",
            "predict_special_tokens",
            "classifier_dropout",
            "reorder_and_upcast_attn",
        ),
        prepare=prepared,
    ),
    build=decoder,
    names=NAMES,
    anchor="embeddings.token.weight",
    heads=decoder_heads("GPT2", lm="LMHeadModel", tokens="classifier"),
    prefix="transformer.",
    constants=("h.*.attn.bias", "h.*.attn.masked_bias"),
    others=OTHERS,
    draw=draw,
)
