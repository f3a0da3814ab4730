"""The table of twins: one row a variant. The command line, the tests and the documentation read it.

A row says where the class lives (the same path under `jax_attn` and `torch_ref`), how both sides are
built, and the inputs that stress it. Sizes are primes and all different, so that a swapped axis shows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
from flax import nnx

from jax_attn.parity.cases import (
    Case,
    cross_cases,
    mask_cases,
    query_key_value_cases,
    text_cases,
    token_cases,
    token_id_cases,
    torch_mask_cases,
)

ATTENTION_PAPER = '"Attention Is All You Need" (arXiv 1706.03762)'
NLP_TRANSFORMERS = '"Natural Language Processing with Transformers", ch. 3'
BERT = "Devlin et al. (arXiv 1810.04805)"
BUILD_LLM = '"Build a Large Language Model From Scratch", ch. 3'


@dataclass(frozen=True)
class Twin:
    """One variant: a Flax class, its torch twin, and how the two are built and called to be compared.

    Attributes:
        name: what the command line calls it.
        where: `module:Class`, relative to `jax_attn` and to `torch_ref`.
        summary: what it computes, in a line.
        source: the paper, book or API it comes from.
        arguments: constructor arguments, the same on both sides (`rngs` is added for Flax).
        cases: builds the calls that the two sides are compared on.
        whole_model: judged by the float64 bound of a whole model in place of a single module's.
    """

    name: str
    where: str
    summary: str
    source: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    cases: Callable[[], Sequence[Case]] = list
    whole_model: bool = False

    def flax(self, seed: int = 0) -> nnx.Module:
        """The Flax module, with random weights."""
        return self._class("jax_attn")(**self.arguments, rngs=nnx.Rngs(seed))

    def torch(self, seed: int = 0) -> Any:
        """The torch module, with random weights. Imports torch."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._class("torch_ref")(**self.arguments)

    def _class(self, package: str) -> Any:
        module, name = self.where.split(":")
        return getattr(import_module(f"{package}.{module}"), name)


def simple_weight_cases(width: int) -> list[Case]:
    """The usual cases, asking for scores and weights too."""
    return [replace(case, kwargs={"need_weights": True}) for case in token_cases(width, mean=1.0)]


ENCODER_LAYER = dict(embed_dim=91, num_heads=7, hidden_dim=113, dropout=0.2, attention_dropout=0.3)
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


def encoder_layer_cases(width: int) -> list[Case]:
    """The usual cases in batches, and those with a mask."""
    return [case for case in [*token_cases(width), *mask_cases(width)] if "unbatched" not in case.name]


def encoder_cases(width: int) -> list[Case]:
    """The same in fewer shapes: whole stacks take their time to compile."""
    return [case for case in encoder_layer_cases(width) if case.name not in ("one token", "pairs")]


MULTI_HEAD = dict(num_heads=2, context_length=11, dropout=0.3)
TORCH_API = "`torch.nn.MultiheadAttention`"
TORCH_MULTIHEAD = dict(embed_dim=58, num_heads=2, dropout=0.3)


def torch_masks(*kinds: str, **options: Any) -> list[Case]:
    """The calls of `torch_mask_cases` of the kinds named."""
    cases = torch_mask_cases(58, 2, **options)
    return [case for kind in kinds for case in cases[kind]]


def torch_fast_cases() -> list[Case]:
    """Calls without weights: the causal hint, and queries that keep no key."""
    itself, cross = query_key_value_cases(58, need_weights=False)[:2]
    padding, *_ = torch_masks("padding", need_weights=False)
    future = np.triu(np.ones((5, 7), bool), k=1)
    nothing = np.array(padding.kwargs["key_padding_mask"])
    nothing[1] = True
    return [
        itself,
        cross,
        padding,
        replace(padding, name="nothing but padding", kwargs={**padding.kwargs, "key_padding_mask": nothing}),
        *torch_masks("float", need_weights=False),
        replace(cross, name="causal hint", kwargs={**cross.kwargs, "attn_mask": future, "is_causal": True}),
    ]


def torch_added_key_cases() -> list[Case]:
    """Calls with and without masks, which have to leave added keys in sight."""
    return [query_key_value_cases(58)[1], torch_masks("padding")[0], *torch_masks("both")]


def decay(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    """A score mod for both frameworks: the farther back, the less, more so in later heads."""
    return score - 0.25 * (h + 1) * (q_idx - kv_idx)


def with_bias(summary: str) -> list[tuple[str, str, dict[str, bool]]]:
    """Two rows, as (suffix of the name, summary, arguments): without and with biases of q, k and v."""
    return [("", summary, {}), ("-bias", "the same, with biases", dict(qkv_bias=True))]


LADDER = [
    Twin(
        "simple",
        "from_scratch.simple:SimpleSelfAttention",
        "tokens compared by their dot products: nothing to learn, no scale",
        BUILD_LLM,
        {},
        partial(token_cases, 7, mean=1.0),
    ),
    Twin(
        "simple-weights",
        "from_scratch.simple:SimpleSelfAttention",
        "the same, with its scores and weights",
        BUILD_LLM,
        {},
        partial(simple_weight_cases, 7),
    ),
    Twin(
        "v1",
        "from_scratch.v1:SelfAttentionV1",
        "trained projections as raw matrices, scaled",
        BUILD_LLM,
        dict(d_in=7, d_out=5),
        partial(token_cases, 7, mean=1.0),
    ),
    Twin(
        "v2",
        "from_scratch.v2:SelfAttentionV2",
        "trained projections as linear layers",
        BUILD_LLM,
        dict(d_in=37, d_out=29),
        partial(token_cases, 37, mean=3.0),
    ),
    Twin(
        "v2-bias",
        "from_scratch.v2:SelfAttentionV2",
        "the same, with biases",
        BUILD_LLM,
        dict(d_in=37, d_out=29, qkv_bias=True),
        partial(token_cases, 37, mean=3.0),
    ),
    Twin(
        "embed-scaled",
        "from_scratch.embed_scaled:EmbedScaledSelfAttention",
        "one width throughout, biases everywhere",
        ATTENTION_PAPER,
        dict(embed_dim=37),
        partial(token_cases, 37, mean=3.0),
    ),
    Twin(
        "causal",
        "from_scratch.causal:CausalAttention",
        "a token attends to itself and the tokens before it",
        BUILD_LLM,
        dict(d_in=37, d_out=29, context_length=11, dropout=0.3),
        partial(token_cases, 37, context=11, mean=3.0),
    ),
    Twin(
        "causal-bias",
        "from_scratch.causal:CausalAttention",
        "the same, with biases",
        BUILD_LLM,
        dict(d_in=37, d_out=29, context_length=11, dropout=0.3, qkv_bias=True),
        partial(token_cases, 37, context=11, mean=3.0),
    ),
    Twin(
        "renormalized-causal",
        "from_scratch.renormalized_causal:RenormalizedCausalAttention",
        "softmax first, then mask, and each row made to sum to 1",
        BUILD_LLM,
        dict(d_in=37, d_out=29, context_length=11, dropout=0.3),
        partial(token_cases, 37, context=11, mean=3.0),
    ),
    Twin(
        "multi-head-wrapper",
        "from_scratch.multi_head_wrapper:MultiHeadAttentionWrapper",
        "causal heads run one after the other, side by side",
        BUILD_LLM,
        dict(d_in=37, d_out=29, context_length=11, dropout=0.3, num_heads=2),
        partial(token_cases, 37, context=11, mean=3.0),
    ),
    Twin(
        "multi-head-wrapper-projected",
        "from_scratch.multi_head_wrapper:MultiHeadAttentionWrapper",
        "the same, with biases and an output projection",
        BUILD_LLM,
        dict(d_in=37, d_out=29, context_length=11, dropout=0.3, num_heads=2, qkv_bias=True, out_proj=True),
        partial(token_cases, 37, context=11, mean=3.0),
    ),
    Twin(
        "multi-head",
        "from_scratch.multi_head:MultiHeadAttention",
        "one projection, split into causal heads",
        BUILD_LLM,
        dict(d_in=37, d_out=58, context_length=11, dropout=0.3, num_heads=2),
        partial(token_cases, 37, context=11, mean=3.0),
    ),
    Twin(
        "multi-head-bias",
        "from_scratch.multi_head:MultiHeadAttention",
        "the same, with biases",
        BUILD_LLM,
        dict(d_in=37, d_out=58, context_length=11, dropout=0.3, num_heads=2, qkv_bias=True),
        partial(token_cases, 37, context=11, mean=3.0),
    ),
    Twin(
        "embed-multi-head",
        "from_scratch.embed_multi_head:EmbedMultiHeadAttention",
        "heads that see every token, one width throughout",
        ATTENTION_PAPER,
        dict(embed_dim=58, num_heads=2),
        partial(token_cases, 58, mean=3.0),
    ),
    Twin(
        "embed-multi-head-masked",
        "from_scratch.embed_multi_head:EmbedMultiHeadAttention",
        "the same, with a mask over keys or pairs",
        ATTENTION_PAPER,
        dict(embed_dim=58, num_heads=2),
        partial(mask_cases, 58, name="attention_mask"),
    ),
    # one matrix product for queries, keys and values, and what can be done with it
    *(
        Twin(
            "combined-qkv" + suffix,
            "from_scratch.combined_qkv:MultiHeadAttentionCombinedQKV",
            summary,
            BUILD_LLM,
            dict(d_in=37, d_out=58, **MULTI_HEAD, **bias),
            partial(token_cases, 37, context=11),
        )
        for suffix, summary, bias in with_bias("one fused projection for queries, keys and values")
    ),
    *(
        Twin(
            "einsum" + suffix,
            "from_scratch.einsum:MultiHeadAttentionEinsum",
            summary,
            BUILD_LLM,
            dict(d_in=37, d_out=58, **MULTI_HEAD, **bias),
            partial(token_cases, 37, context=11),
        )
        for suffix, summary, bias in with_bias("raw weights, and every product an einsum")
    ),
    *(
        Twin(
            "sdpa" + suffix,
            "from_scratch.sdpa:MultiHeadAttentionSDPA",
            summary,
            BUILD_LLM,
            dict(d_in=37, d_out=58, **MULTI_HEAD, **bias),
            partial(token_cases, 37, context=11),
        )
        for suffix, summary, bias in with_bias("the fused scaled-dot-product kernel")
    ),
    *(
        Twin(
            "sdpa-masked" + suffix,
            "from_scratch.sdpa_masked:MultiHeadAttentionSDPAMasked",
            summary,
            BUILD_LLM,
            dict(d_in=37, d_out=58, **MULTI_HEAD, **bias),
            partial(token_cases, 37, context=11),
        )
        for suffix, summary, bias in with_bias("the kernel told an explicit mask")
    ),
    # torch's own class, whole
    *(
        Twin(
            "torch-multihead" + suffix,
            "from_scratch.torch_multihead:TorchMultiheadAttention",
            summary,
            TORCH_API,
            dict(TORCH_MULTIHEAD, **arguments),
            cases,
        )
        for suffix, summary, arguments, cases in [
            (
                "",
                "torch's multi-head attention, whole, with averaged weights",
                {},
                partial(query_key_value_cases, 58),
            ),
            (
                "-head-weights",
                "the same, with the weights of each head",
                {},
                lambda: query_key_value_cases(58, average_attn_weights=False)[:2],
            ),
            ("-no-weights", "the same without weights, and the causal hint", {}, torch_fast_cases),
            (
                "-batch-first",
                "the same, batch first and without biases",
                dict(bias=False, batch_first=True),
                partial(query_key_value_cases, 58, batch_first=True),
            ),
            (
                "-kdim-vdim",
                "keys and values of other widths",
                dict(kdim=17, vdim=19),
                partial(query_key_value_cases, 58, 17, 19),
            ),
            ("-padding", "a mask over the keys", {}, partial(torch_masks, "padding")),
            ("-masked", "a boolean mask over pairs, also for each head", {}, partial(torch_masks, "boolean")),
            ("-float-mask", "a float mask, added to the scores", {}, partial(torch_masks, "float")),
            ("-both-masks", "both masks at once", {}, partial(torch_masks, "both")),
            (
                "-bias-kv",
                "a learnt key and value that no mask reaches",
                dict(add_bias_kv=True),
                torch_added_key_cases,
            ),
            (
                "-zero-attn",
                "a key and value of zeros that no mask reaches",
                dict(add_zero_attn=True),
                torch_added_key_cases,
            ),
        ]
    ),
    *(
        Twin(
            "torch-class" + suffix,
            "from_scratch.torch_class:MultiHeadAttentionTorchClass",
            summary,
            BUILD_LLM,
            dict(d_in=58, d_out=58, **MULTI_HEAD, **arguments),
            partial(token_cases, 58, context=11),
        )
        for suffix, summary, arguments in [
            *with_bias("torch's class made causal"),
            ("-no-weights", "the same without weights", dict(need_weights=False)),
        ]
    ),
    *(
        Twin(
            "flex" + suffix,
            "from_scratch.flex:MultiHeadAttentionFlex",
            summary,
            BUILD_LLM + "; FlexAttention (arXiv 2412.05496)",
            dict(d_in=37, d_out=58, **MULTI_HEAD, **arguments),
            partial(token_cases, 37, context=11),
        )
        for suffix, summary, arguments in [
            *with_bias("FlexAttention with a causal block mask"),
            ("-score-mod", "the same, with a score mod", dict(score_mod=decay)),
        ]
    ),
    # heads as bricks
    Twin(
        "head",
        "from_scratch.head:AttentionHead",
        "one head with biases",
        NLP_TRANSFORMERS,
        dict(embed_dim=37, head_dim=29),
        partial(token_cases, 37, mean=3.0),
    ),
    Twin(
        "head-masked",
        "from_scratch.head:AttentionHead",
        "the same, with a mask over keys or pairs",
        NLP_TRANSFORMERS,
        dict(embed_dim=37, head_dim=29),
        partial(mask_cases, 37),
    ),
    Twin(
        "from-heads",
        "from_scratch.from_heads:MultiHeadAttentionFromHeads",
        "a list of heads, concatenated, and a linear layer",
        NLP_TRANSFORMERS,
        dict(embed_dim=58, num_heads=2),
        partial(token_cases, 58, mean=3.0),
    ),
    Twin(
        "from-heads-masked",
        "from_scratch.from_heads:MultiHeadAttentionFromHeads",
        "the same, with a mask over keys or pairs",
        NLP_TRANSFORMERS,
        dict(embed_dim=58, num_heads=2),
        partial(mask_cases, 58),
    ),
    Twin(
        "linear-qkv",
        "from_scratch.linear_qkv:LinearQKV",
        "the three projections alone",
        ATTENTION_PAPER,
        dict(d_model=37),
        partial(token_cases, 37),
    ),
]

COMPONENTS = [
    # attention
    Twin(
        "attention",
        "attention.multi_head:MultiHeadAttention",
        "heads that see every token; the attention of the models",
        ATTENTION_PAPER,
        dict(embed_dim=91, num_heads=7, dropout=0.3),
        partial(token_cases, 91),
    ),
    Twin(
        "attention-masked",
        "attention.multi_head:MultiHeadAttention",
        "the same without biases, with a mask over keys or pairs",
        ATTENTION_PAPER,
        dict(embed_dim=91, num_heads=7, dropout=0.3, bias=False),
        partial(mask_cases, 91),
    ),
    Twin(
        "attention-cross",
        "attention.multi_head:MultiHeadAttention",
        "from one sequence to another of another length",
        ATTENTION_PAPER,
        dict(embed_dim=91, num_heads=7, dropout=0.3),
        partial(cross_cases, 91),
    ),
    Twin(
        "attention-grouped",
        "attention.multi_head:MultiHeadAttention",
        "GQA: three query heads to a key/value head",
        "Ainslie et al. (arXiv 2305.13245)",
        dict(embed_dim=78, num_heads=6, num_kv_heads=2, dropout=0.3),
        partial(cross_cases, 78),
    ),
    Twin(
        "attention-multi-query",
        "attention.multi_head:MultiHeadAttention",
        "MQA: all query heads to one key/value head",
        "Shazeer (arXiv 1911.02150)",
        dict(embed_dim=87, num_heads=3, num_kv_heads=1, dropout=0.3),
        partial(mask_cases, 87),
    ),
    # positions
    Twin(
        "positions-learned",
        "positions.learned:LearnedPositions",
        "a learned vector for each position",
        BERT,
        dict(num_embeddings=11, embedding_dim=7),
        partial(token_cases, 7, context=11),
    ),
    Twin(
        "positions-sinusoidal",
        "positions.sinusoidal:SinusoidalPositions",
        "sines and cosines of the position, nothing to learn",
        ATTENTION_PAPER,
        dict(num_embeddings=509, embedding_dim=7),
        partial(token_cases, 7, context=509),
    ),
    # layers
    Twin(
        "embeddings",
        "layers.embeddings:Embeddings",
        "token + learned position + segment, norm, dropout",
        BERT,
        dict(vocab_size=31, embed_dim=37, max_positions=11, num_segments=3, dropout=0.2),
        partial(token_id_cases, 31, segments=3, context=11, segment_name="segment_ids"),
    ),
    Twin(
        "embeddings-sinusoidal",
        "layers.embeddings:Embeddings",
        "the same with sinusoidal positions",
        ATTENTION_PAPER,
        dict(vocab_size=31, embed_dim=37, max_positions=11, dropout=0.2, positions="sinusoidal"),
        partial(token_id_cases, 31, context=11, segment_name="segment_ids"),
    ),
    Twin(
        "feed-forward-gelu",
        "layers.feed_forward:FeedForward",
        "two linear layers around GELU with erf",
        BERT,
        dict(embed_dim=37, hidden_dim=113, activation="gelu", dropout=0.2),
        partial(token_cases, 37),
    ),
    Twin(
        "feed-forward-gelu-tanh",
        "layers.feed_forward:FeedForward",
        "two linear layers around GELU with tanh",
        "Hendrycks and Gimpel (arXiv 1606.08415)",
        dict(embed_dim=37, hidden_dim=113, activation="gelu_tanh", dropout=0.2),
        partial(token_cases, 37),
    ),
    Twin(
        "feed-forward-relu",
        "layers.feed_forward:FeedForward",
        "two linear layers around ReLU",
        ATTENTION_PAPER,
        dict(embed_dim=37, hidden_dim=113, activation="relu", dropout=0.2),
        partial(token_cases, 37),
    ),
    *(
        Twin(
            f"encoder-layer-{placement}",
            "layers.encoder_layer:EncoderLayer",
            f"attention and feed-forward, {placement}-norm",
            source,
            dict(ENCODER_LAYER, norm_placement=placement),
            partial(encoder_layer_cases, 91),
        )
        for placement, source in {"post": ATTENTION_PAPER, "pre": "Xiong et al. (arXiv 2002.04745)"}.items()
    ),
    Twin(
        "encoder",
        "layers.encoder:Encoder",
        "encoder layers one after another",
        ATTENTION_PAPER,
        dict(ENCODER_LAYER, num_layers=2),
        partial(encoder_cases, 91),
    ),
    Twin(
        "encoder-scanned",
        "layers.encoder:Encoder",
        "the same as one stacked layer and a loop",
        ATTENTION_PAPER,
        dict(ENCODER_LAYER, num_layers=2, scan=True),
        partial(encoder_cases, 91),
    ),
    Twin(
        "encoder-pre-scanned",
        "layers.encoder:Encoder",
        "the same in pre-norm with a norm at its end, recomputed backwards",
        "Xiong et al. (arXiv 2002.04745)",
        dict(ENCODER_LAYER, num_layers=2, norm_placement="pre", final_norm=True, scan=True, remat=True),
        partial(encoder_cases, 91),
    ),
    Twin(
        "pooler",
        "layers.pooler:Pooler",
        "the first token's vector, a dense layer and tanh",
        BERT,
        dict(embed_dim=37),
        partial(token_cases, 37),
    ),
    Twin(
        "classification-head",
        "layers.classification_head:ClassificationHead",
        "the first token's vector, dropout and a linear layer",
        NLP_TRANSFORMERS,
        dict(embed_dim=37, num_classes=5, dropout=0.2),
        partial(token_cases, 37),
    ),
    # models
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
]

CATALOGUE: dict[str, Twin] = {twin.name: twin for twin in [*LADDER, *COMPONENTS]}
