"""The rows of the ladder, `from_scratch/`, in its order."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from jax_attn.catalogue.cases import (
    mask_cases,
    query_key_value_cases,
    token_cases,
    torch_mask_cases,
)
from jax_attn.catalogue.twin import ATTENTION_PAPER, BUILD_LLM, NLP_TRANSFORMERS, Twin
from jax_attn.parity.cases import Case

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


def simple_weight_cases(width: int) -> list[Case]:
    """The usual cases, asking for scores and weights too."""
    return [replace(case, kwargs={"need_weights": True}) for case in token_cases(width, mean=1.0)]


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
