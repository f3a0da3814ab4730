"""ModernBERT: rotary positions, windows in two of three layers, gated feed-forwards, and norms before."""

from collections.abc import Mapping, Sequence
from typing import Any

from flax import nnx

from jax_attn.functional.activations import ACTIVATIONS
from jax_attn.models.bert import draw_normal
from jax_attn.models.part import Part
from jax_attn.models.task_model import TaskModel
from jax_attn.models.text_encoder import TextEncoder
from jax_attn.nn.attention.multi_head import MultiHeadAttention
from jax_attn.nn.layers.causal_lm_head import CausalLMHead
from jax_attn.nn.layers.classification_head import ClassificationHead
from jax_attn.nn.layers.embeddings import Embeddings
from jax_attn.nn.layers.encoder_layer import EncoderLayer
from jax_attn.nn.layers.gated_feed_forward import GatedFeedForward
from jax_attn.nn.layers.pooler import Pooler
from jax_attn.nn.layers.span_head import SpanHead
from jax_attn.nn.layers.stack import Stack
from jax_attn.nn.layers.tied_head import TiedHead
from jax_attn.nn.layers.token_classification_head import TokenClassificationHead
from jax_attn.nn.layers.transformed_head import TransformedHead
from jax_attn.nn.positions.rotary import RotaryPositions
from jax_attn.nn.primitives import LayerNorm
from jax_attn.weights.config import MOST_LAYERS, ConfigRules
from jax_attn.weights.family import Family, Head, Settings, initializer_range

DEFAULTS: dict[str, Any] = {
    "vocab_size": 50368,
    "hidden_size": 768,
    "intermediate_size": 1152,
    "num_hidden_layers": 22,
    "num_attention_heads": 12,
    "hidden_activation": "gelu",
    "norm_eps": 1e-5,
    "norm_bias": False,
    "pad_token_id": 50283,
    "attention_bias": False,
    "attention_dropout": 0.0,
    "layer_types": (),
    "local_attention": 128,
    "global_rope_theta": 160000.0,
    "local_rope_theta": 10000.0,
    "embedding_dropout": 0.0,
    "mlp_bias": False,
    "mlp_dropout": 0.0,
}
HEAD = {"classifier_bias": False, "classifier_activation": "gelu"}
CLASSIFIER = {**HEAD, "num_labels": 2, "classifier_dropout": 0.0}
KINDS = {"full_attention": "global_rope_theta", "sliding_attention": "local_rope_theta"}
POOLINGS = {"cls": "first", "mean": "mean"}


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """The kind of each layer, and the base of each kind's rotations, however the release nests them."""
    if "num_labels" not in config and config.get("id2label"):
        config["num_labels"] = len(config["id2label"])
    config["layer_types"] = layer_types(config)
    rotary = config.pop("rope_parameters", None) or {}
    if not isinstance(rotary, dict) or not rotary.keys() <= KINDS.keys():
        raise ValueError(f"rope_parameters={rotary!r} must be an object of {', '.join(KINDS)}")
    if not all(each is None or isinstance(each, dict) for each in rotary.values()):
        raise ValueError(f"rope_parameters={rotary!r} must have an object for each kind")
    for kind, theta in KINDS.items():
        given = rotary.get(kind) or {}
        scaling = given.get("rope_type", "default")
        if scaling != "default":
            raise ValueError(
                f"rope_parameters: rope_type={scaling!r} of {kind} is not supported, only 'default' is"
            )
        for name, value in given.items():
            if name not in ("rope_type", "rope_theta") and value not in (None, 1.0):
                raise ValueError(f"rope_parameters: {name}={value!r} of {kind} is not supported")
        base = given.get("rope_theta", config.get(theta, DEFAULTS[theta]))
        if config.setdefault(theta, base) != base:  # an override, most likely
            raise ValueError(f"{theta}={config[theta]!r} contradicts rope_theta={base!r} of {kind}")
    return config


def layer_types(config: dict[str, Any]) -> Any:
    """The kind of each layer; older files say after how many one sees all."""
    kinds = config.get("layer_types")
    every = config.pop("global_attn_every_n_layers", 3)
    layers = config.get("num_hidden_layers", DEFAULTS["num_hidden_layers"])
    if type(layers) is not int or layers > MOST_LAYERS:  # refused for that
        return ()
    if type(every) is not int or every < 1:
        raise ValueError(f"global_attn_every_n_layers={every!r} must be an integer from 1 on")
    if kinds is None:
        return tuple("sliding_attention" if i % every else "full_attention" for i in range(layers))
    if not isinstance(kinds, list | tuple) or len(kinds) != layers or not {*kinds} <= {*KINDS}:
        known = ", ".join(KINDS)
        raise ValueError(f"layer_types={kinds!r} must name one of {known} for each of the {layers} layers")
    return tuple(kinds)


def norm_name(config: Settings) -> str:
    """The kind of all norms."""
    return "layer" if config.norm_bias else "layer_without_bias"


def layer(index: int, config: Settings) -> Part:
    """One layer; what the first one reads is normed already."""
    kind = config.layer_types[index]
    width = config.hidden_size
    head_dim = width // config.num_attention_heads
    attention = Part(
        MultiHeadAttention,
        embed_dim=width,
        num_heads=config.num_attention_heads,
        dropout=config.attention_dropout,
        bias=config.attention_bias,
        # Half of them before and half behind a token, which sees itself.
        window=config.local_attention // 2 + 1 if kind == "sliding_attention" else None,
        positions=Part(RotaryPositions, head_dim=head_dim, base=getattr(config, KINDS[kind])),
    )
    feed_forward = Part(
        GatedFeedForward,
        embed_dim=width,
        hidden_dim=config.intermediate_size,
        activation=config.hidden_activation,
        bias=config.mlp_bias,
        activation_dropout=config.mlp_dropout,
    )
    return Part(
        EncoderLayer,
        embed_dim=width,
        norm_placement="pre",
        dropout=config.attention_dropout,
        eps=config.norm_eps,
        norm=norm_name(config),
        attention=attention,
        feed_forward=feed_forward,
        first_norm=index > 0,
    )


def encoder(config: Settings) -> Part:
    """The model without a head."""
    width = config.hidden_size
    return Part(
        TextEncoder,
        embeddings=Part(
            Embeddings,
            vocab_size=config.vocab_size,
            embed_dim=width,
            max_positions=None,
            num_segments=0,
            dropout=config.embedding_dropout,
            positions=None,
            eps=config.norm_eps,
            padding_idx=config.pad_token_id,
            norm=norm_name(config),
        ),
        encoder=Part(
            Stack,
            layers=[layer(index, config) for index in range(config.num_hidden_layers)],
            norm=Part(LayerNorm, normalized_shape=width, eps=config.norm_eps, bias=config.norm_bias),
            scan=config.scan,
            remat=config.remat,
        ),
    )


def with_head(
    model: Part, config: Settings, head: Part, reads: str = "tokens", pooler: Part | None = None
) -> Part:
    """The model, the dense layer that all heads have, and the head."""
    transformed = Part(
        TransformedHead,
        embed_dim=config.hidden_size,
        head=head,
        pooler=pooler,
        activation=config.classifier_activation,
        bias=config.classifier_bias,
        norm=norm_name(config),
        eps=config.norm_eps,
    )
    return Part(TaskModel, model=model, head=transformed, reads=reads)


def labels(config: Settings) -> dict[str, Any]:
    """What classifiers are built from."""
    return {
        "embed_dim": config.hidden_size,
        "num_classes": config.num_labels,
        "dropout": config.classifier_dropout,
    }


def sequence_classification(model: Part, config: Settings) -> Part:
    """Scores of classes for a text, by its first token or by all."""
    pooling = POOLINGS[config.classifier_pooling]
    pooler = Part(Pooler, embed_dim=config.hidden_size, kind=pooling, dense=False)
    head = Part(ClassificationHead, **labels(config), pooling=None)
    return with_head(model, config, head, "tokens_and_mask" if pooling == "mean" else "tokens", pooler)


def token_classification(model: Part, config: Settings) -> Part:
    """Scores of classes for each token."""
    return with_head(model, config, Part(TokenClassificationHead, **labels(config)))


def question_answering(model: Part, config: Settings) -> Part:
    """Where an answer starts and ends."""
    head = Part(SpanHead, embed_dim=config.hidden_size, dropout=config.classifier_dropout)
    return with_head(model, config, head)


def masked_lm(model: Part, config: Settings) -> Part:
    """Scores of all tokens in the place of each, tied to the table or not."""
    sizes = {"vocab_size": config.vocab_size, "bias": config.decoder_bias}
    if config.tie_word_embeddings:
        return with_head(model, config, Part(TiedHead, **sizes), "tokens_and_table")
    return with_head(model, config, Part(CausalLMHead, embed_dim=config.hidden_size, **sizes))


def draw(module: nnx.Module, config: Mapping[str, Any]) -> None:
    """The initial weights, none of them far from 0; what branches add is narrower by the root of their number."""
    wide = initializer_range(config)
    narrow = wide * (2 * config.get("num_hidden_layers", DEFAULTS["num_hidden_layers"])) ** -0.5
    head = getattr(getattr(module, "head", None), "head", None)

    def deviation(path: Sequence[Any], node: Any) -> float:
        if path[-1] == "linear" and not isinstance(head, CausalLMHead):
            return node.in_features**-0.5
        return narrow if path[-1] in ("out_proj", "down", "dense", "linear") else wide

    draw_normal(module, deviation, cutoff=config.get("initializer_cutoff_factor", 2.0) or 3.0)


NAMES = (
    (r"\bembeddings\.token\.", "embeddings.tok_embeddings."),
    (r"\bencoder\.norm\.", "final_norm."),
    (r"\bencoder\.layers\.", "layers."),
    (r"\battention\.q_proj\.(\w+)$", r"attn.Wqkv.\1[0]"),
    (r"\battention\.k_proj\.(\w+)$", r"attn.Wqkv.\1[1]"),
    (r"\battention\.v_proj\.(\w+)$", r"attn.Wqkv.\1[2]"),
    (r"\battention\.out_proj\.", "attn.Wo."),
    (r"\battention_norm\.", "attn_norm."),
    (r"\bfeed_forward\.gate\.(\w+)$", r"mlp.Wi.\1[0]"),
    (r"\bfeed_forward\.up\.(\w+)$", r"mlp.Wi.\1[1]"),
    (r"\bfeed_forward\.down\.", "mlp.Wo."),
    (r"\bfeed_forward_norm\.", "mlp_norm."),
)
CLASSIFIER_NAMES = ((r"^head\.head\.linear\.", "classifier."),)
DECODER_NAMES = ((r"^head\.head\.linear\.", "decoder."), (r"^head\.head\.", "decoder."))

MODERNBERT = Family(
    name="ModernBert",
    model_types=("modernbert",),
    rules=ConfigRules(
        defaults=DEFAULTS,
        optional=("pad_token_id",),
        choices={
            "hidden_activation": tuple(ACTIVATIONS),
            "classifier_activation": tuple(ACTIVATIONS),
            "classifier_pooling": tuple(POOLINGS),
        },
        # Positions are not in a table; the rest is of training, and of heads that are not built.
        neutral=(
            *("max_position_embeddings", "initializer_cutoff_factor", "position_embedding_type"),
            *(
                "deterministic_flash_attn",
                "sparse_prediction",
                "sparse_pred_ignore_index",
                "repad_logits_with_grad",
            ),
            *("decoder_bias", "classifier_pooling", "gradient_checkpointing", "layer_norm_eps", *CLASSIFIER),
        ),
        prepare=flat,
    ),
    build=encoder,
    names=NAMES,
    anchor="embeddings.token.weight",
    heads={
        "ModernBertForSequenceClassification": Head(
            sequence_classification, CLASSIFIER_NAMES, defaults={**CLASSIFIER, "classifier_pooling": "cls"}
        ),
        "ModernBertForTokenClassification": Head(token_classification, CLASSIFIER_NAMES, defaults=CLASSIFIER),
        "ModernBertForQuestionAnswering": Head(question_answering, CLASSIFIER_NAMES, defaults=CLASSIFIER),
        "ModernBertForMaskedLM": Head(
            masked_lm,
            DECODER_NAMES,
            defaults={**HEAD, "decoder_bias": True, "tie_word_embeddings": True},
            tied={"decoder.weight": "embeddings.token.weight"},
        ),
    },
    prefix="model.",
    others=("classifier.", "decoder.", "head."),
    draw=draw,
)
