"""T5, its v1.1, mT5 and UMT5: relative positions that layers share, RMS norms, no biases and no scale."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from flax import nnx

from jax_attn.functional.activations import ACTIVATIONS
from jax_attn.models.bert import draw_normal
from jax_attn.models.encoder_decoder import EncoderDecoder
from jax_attn.models.part import Part
from jax_attn.models.seq2seq_lm import Seq2SeqLM
from jax_attn.models.task_model import TaskModel
from jax_attn.models.text_decoder import TextDecoder
from jax_attn.models.text_encoder import TextEncoder
from jax_attn.nn.attention.multi_head import MultiHeadAttention
from jax_attn.nn.layers.causal_lm_head import CausalLMHead
from jax_attn.nn.layers.decoder_layer import DecoderLayer
from jax_attn.nn.layers.embeddings import Embeddings
from jax_attn.nn.layers.encoder_layer import EncoderLayer
from jax_attn.nn.layers.feed_forward import FeedForward
from jax_attn.nn.layers.gated_feed_forward import GatedFeedForward
from jax_attn.nn.layers.stack import Stack
from jax_attn.nn.layers.tied_head import TiedHead
from jax_attn.nn.layers.token_classification_head import TokenClassificationHead
from jax_attn.nn.positions.t5 import T5Positions
from jax_attn.nn.primitives import Embedding, RMSNorm
from jax_attn.weights.config import ConfigRules
from jax_attn.weights.family import Family, Head, Settings

GATED = "gated-"
TABLE = "decoder.embeddings.token.weight"
DEFAULTS: dict[str, Any] = {
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_decoder_layers": 6,
    "num_heads": 8,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "dropout_rate": 0.1,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "relu",
    "tie_word_embeddings": True,
    "scale_decoder_outputs": True,
    "has_head": False,
}
MT5_DEFAULTS = {
    **DEFAULTS,
    "vocab_size": 250112,
    "d_ff": 1024,
    "num_layers": 8,
    "num_decoder_layers": 8,
    "num_heads": 6,
    "feed_forward_proj": "gated-gelu",
}
NEUTRAL = (
    "bos_token_id",
    "classifier_dropout",
    "decoder_start_token_id",
    "dense_act_fn",  # both follow from feed_forward_proj
    "is_gated_act",
    "n_positions",
    "pad_token_id",
    "scalable_attention",
)


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """As many layers in the decoder, and scores scaled where they are those of the embeddings' table.

    transformers 5 calls every head tied, and notes apart whether its scores are scaled: those of T5 v1.1, which has
    a head of its own, are not, and mT5's never. Where such a file has none, `has_head` becomes False.
    """
    config.pop("is_encoder_decoder", None)  # an encoder alone is built by another name
    if config.get("num_decoder_layers") is None and "num_layers" in config:
        config["num_decoder_layers"] = config["num_layers"]
    if config.get("scale_decoder_outputs") is None:
        config["scale_decoder_outputs"] = config.get("tie_word_embeddings", True)
    if config["model_type"] == "mt5":
        config["scale_decoder_outputs"] = False
    tied = config.get("tie_word_embeddings", True) and config["scale_decoder_outputs"]
    config.setdefault("has_head", not tied)
    usual = DEFAULTS if config["model_type"] == "t5" else MT5_DEFAULTS
    name = str(config.get("feed_forward_proj", usual["feed_forward_proj"]))
    expected = "gelu_new" if name == f"{GATED}gelu" else name.removeprefix(GATED)
    # In transformers these two decide where they say otherwise.
    for other, same in (("dense_act_fn", expected), ("is_gated_act", is_gated(name))):
        if config.get(other) not in (None, same):
            raise ValueError(f"{other}={config[other]!r} is not supported beside feed_forward_proj={name!r}")
    return config


def is_gated(proj: Any) -> bool:
    """Whether a `feed_forward_proj` has a gate."""
    return str(proj).startswith(GATED)


def attention(config: Settings, is_causal: bool = False, own: bool = False, cross: bool = False) -> Part:
    """Heads of a width of their own; `own` positions are those of this layer."""
    return Part(
        MultiHeadAttention,
        embed_dim=config.d_model,
        num_heads=config.num_heads,
        head_dim=config.d_kv,
        bias=False,
        scale=1.0,
        dropout=config.dropout_rate,
        is_causal=is_causal,
        positions=positions(config, not is_causal) if own and not cross else None,
    )


def positions(config: Settings, bidirectional: bool) -> Part:
    """A bias for each bucket of distances."""
    return Part(
        T5Positions,
        num_heads=config.num_heads,
        num_buckets=config.relative_attention_num_buckets,
        max_distance=config.relative_attention_max_distance,
        bidirectional=bidirectional,
    )


def feed_forward(config: Settings) -> Part:
    """Two linear layers, or three with a gate; "gelu" with a gate means the one with tanh."""
    name = config.feed_forward_proj.removeprefix(GATED)
    gated = config.feed_forward_proj != name
    return Part(
        GatedFeedForward if gated else FeedForward,
        embed_dim=config.d_model,
        hidden_dim=config.d_ff,
        activation="gelu_new" if gated and name == "gelu" else name,
        dropout=config.dropout_rate,
        activation_dropout=config.dropout_rate,
        bias=False,
    )


def stack(config: Settings, decoder: bool, own_positions: bool) -> Part:
    """The layers of one side, with the norm and the dropout behind them."""
    options = {
        "embed_dim": config.d_model,
        "norm_placement": "pre",
        "norm": "rms",
        "eps": config.layer_norm_epsilon,
        "dropout": config.dropout_rate,
        "attention": attention(config, is_causal=decoder, own=own_positions),
        "feed_forward": feed_forward(config),
    }
    layer = (
        Part(DecoderLayer, cross_attention=attention(config, cross=True), **options)
        if decoder
        else Part(EncoderLayer, **options)
    )
    return Part(
        Stack,
        layers=[layer] * (config.num_decoder_layers if decoder else config.num_layers),
        norm=Part(RMSNorm, normalized_shape=config.d_model, eps=config.layer_norm_epsilon),
        positions=None if own_positions else positions(config, bidirectional=not decoder),
        dropout=config.dropout_rate,
        scan=config.scan,
        remat=config.remat,
    )


def embeddings(config: Settings) -> Part:
    """Tokens alone."""
    return Part(
        Embeddings,
        vocab_size=config.vocab_size,
        embed_dim=config.d_model,
        max_positions=None,
        num_segments=0,
        positions=None,
        norm=None,
        dropout=config.dropout_rate,
    )


def model(config: Settings, own_positions: bool = False) -> Part:
    """Both sides, without a head."""
    decoder = Part(
        TextDecoder,
        embeddings=embeddings(config),
        decoder=stack(config, decoder=True, own_positions=own_positions),
    )
    encoder = stack(config, decoder=False, own_positions=own_positions)
    return Part(EncoderDecoder, encoder=encoder, decoder=decoder, shared_embeddings=True)


def encoder_model(model: Part, config: Settings) -> Part:
    """The encoder alone, with the embeddings."""
    return Part(TextEncoder, embeddings=embeddings(config), encoder=model.arguments["encoder"])


def token_classifier(model: Part, config: Settings) -> Part:
    """Scores of each token of the first sequence; what reads it is the encoder alone."""
    head = Part(
        TokenClassificationHead,
        embed_dim=config.d_model,
        num_classes=config.num_labels,
        dropout=config.classifier_dropout,
    )
    return Part(TaskModel, model=encoder_model(model, config), head=head)


def seq2seq_lm(model: Part, config: Settings) -> Part:
    """The language model, whose scores come from the embeddings or, since v1.1, from a head of its own."""
    scale = config.d_model**-0.5 if config.scale_decoder_outputs else 1.0
    if not config.has_head:
        return Part(Seq2SeqLM, model=model, head=Part(TiedHead, vocab_size=config.vocab_size, scale=scale))
    if config.scale_decoder_outputs:
        raise ValueError("scale_decoder_outputs=True is not supported beside a head of its own")
    head = Part(CausalLMHead, embed_dim=config.d_model, vocab_size=config.vocab_size)
    return Part(Seq2SeqLM, model=model, head=head)


def draw(module: nnx.Module, config: Mapping[str, Any]) -> None:
    """The initial weights: so wide that each keeps the variance of what it reads, and queries carry the scale.

    The table of tokens and the heads are drawn from N(0, 1), as in Mesh TensorFlow.
    """
    given = {**DEFAULTS, **config}
    factor = config.get("initializer_factor") or 1.0

    def deviation(path: Sequence[Any], node: Any) -> float:
        if "head" in path or path[-1] == "token":
            return factor
        if isinstance(node, Embedding):  # of distances
            return factor * given["d_model"] ** -0.5
        narrower = given["d_kv"] ** -0.5 if path[-1] == "q_proj" else 1.0
        return factor * node.in_features**-0.5 * narrower

    draw_normal(module, deviation)
    for _, node in nnx.iter_modules(module, graph=True):
        if isinstance(node, RMSNorm):
            node.scale.set_value(factor * node.scale[...])


def names(gated: bool) -> tuple[tuple[str, str], ...]:
    """What turns our keys into those of a file whose feed-forward is gated or not."""
    return (
        (r"\b(?:decoder\.)?embeddings\.token\.", "shared."),
        (r"\bdecoder\.decoder\.", "decoder."),
        (r"\bencoder\.layers\.(\d+)\.feed_forward", r"encoder.block.\1.layer.1.feed_forward"),
        (r"\bdecoder\.layers\.(\d+)\.feed_forward", r"decoder.block.\1.layer.2.feed_forward"),
        (r"\blayers\.(\d+)\.cross_attention", r"block.\1.layer.1.cross_attention"),
        (r"\blayers\.(\d+)\.attention", r"block.\1.layer.0.attention"),
        (r"\b(?:attention|cross_attention|feed_forward)_norm\.", "layer_norm."),
        (r"\b(encoder|decoder)\.norm\.", r"\1.final_layer_norm."),
        (r"\b(encoder|decoder)\.positions\.", r"\1.block.0.layer.0.attention.positions."),
        (r"\battention\.positions\.table\.", "attention.relative_attention_bias."),
        (r"\battention\.", "SelfAttention."),
        (r"\bcross_attention\.", "EncDecAttention."),
        (r"Attention\.(q|k|v)_proj\.", r"Attention.\1."),
        (r"Attention\.out_proj\.", "Attention.o."),
        (r"\bfeed_forward\.gate\.", "DenseReluDense.wi_0."),
        (r"\bfeed_forward\.up\.", "DenseReluDense.wi_1." if gated else "DenseReluDense.wi."),
        (r"\bfeed_forward\.down\.", "DenseReluDense.wo."),
    )


def families(name: str, defaults: Mapping[str, Any], own_positions: bool = False) -> tuple[Family, Family]:
    """T5 or one that was made of it: where its files say nothing of a gate, and where they say the opposite."""
    gated = is_gated(defaults["feed_forward_proj"])
    usual = Family(
        name=name,
        model_types=(name.lower(),),
        rules=ConfigRules(
            defaults=defaults,
            choices={"feed_forward_proj": (*ACTIVATIONS, *(GATED + each for each in ACTIVATIONS))},
            neutral=NEUTRAL,
            prepare=flat,
        ),
        build=partial(model, own_positions=own_positions),
        names=names(gated),
        anchor=TABLE,
        heads={
            f"{name}ForConditionalGeneration": Head(
                seq2seq_lm,
                names=((r"^head\.linear\.", "lm_head."),),
                prefix="",
                optional={"has_head": "head.linear.weight"},
                tied={"lm_head.weight": TABLE},
            ),
            f"{name}EncoderModel": Head(encoder_model, prefix="", others=("decoder.",)),
            f"{name}ForTokenClassification": Head(
                token_classifier,
                names=((r"^head\.linear\.", "classifier."),),
                prefix="transformer.",
                others=("decoder.",),
                defaults={"num_labels": 2, "classifier_dropout": 0.0},
            ),
        },
        constants=("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"),  # "shared" once more
        others=("lm_head.", "classification_head.", "classifier.", "qa_outputs."),
        draw=draw,
    )

    def says_otherwise(config: Mapping[str, Any]) -> bool:
        return "feed_forward_proj" in config and is_gated(config["feed_forward_proj"]) is not gated

    return replace(usual, names=names(not gated), means=says_otherwise), usual


T5 = families("T5", DEFAULTS)
MT5 = families("MT5", MT5_DEFAULTS)
UMT5 = families("UMT5", MT5_DEFAULTS, own_positions=True)
