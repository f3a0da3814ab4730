"""The rows of `nn/attention/`."""

from functools import partial
from typing import Any

import numpy as np

from jax_attn.catalogue.cases import (
    EXACT,
    cross_cases,
    mask_cases,
    option_cases,
    query_key_value_cases,
    sequence_cases,
    token_cases,
)
from jax_attn.catalogue.twin import ATTENTION_PAPER, Twin
from jax_attn.models.part import Part
from jax_attn.parity.cases import Case

MULTI_HEAD = "nn.attention.multi_head:MultiHeadAttention"
CAUSAL = dict(embed_dim=42, num_heads=7, num_kv_heads=1, dropout=0.3, is_causal=True)


def option(name: str, summary: str, source: str, cases: Any = None, **options: Any) -> Twin:
    """A row for an option of causal attention of seven heads that share one key."""
    return Twin(
        f"attention-{name}",
        MULTI_HEAD,
        summary,
        source,
        {**CAUSAL, **options},
        cases or partial(option_cases, 42),
    )


def global_tokens(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    """A mask mod for both frameworks: a window on both sides, and one token that sees all and is seen by all."""
    return (abs(q_idx - kv_idx) < 2) | (q_idx < 1) | (kv_idx < 1)


def dilated(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    """A mask mod for both frameworks: every second token, in even heads alone."""
    return ((q_idx - kv_idx) % 2 == 0) | (h % 2 == 1)


def fading(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    """A score mod for both frameworks: the farther, the less, more so in later heads."""
    return score * 0.5 - 0.125 * (h + 1) * abs(q_idx - kv_idx)


def short_cases(width: int) -> list[Case]:
    """The cases of sequences, and a text that is shorter than the window."""
    cases = sequence_cases(width)
    (x,) = cases[0].args
    return [*cases, Case("window longer than the text", (x[:, :2],), lanes=EXACT)]


def own_width_cases() -> list[Case]:
    """Calls with keys and values of widths of their own, and a batch axis."""
    return [
        Case(case.name, case.args[:2], {"value": case.args[2]}, case.lanes)
        for case in query_key_value_cases(42, 29, 31, batch_first=True)
    ]


def score_cases() -> list[Case]:
    """Scores of seven heads."""
    return [Case("plain", (np.random.default_rng(0).standard_normal((3, 7, 5, 11)),))]


ATTENTION = [
    Twin(
        "attention",
        MULTI_HEAD,
        "heads that see every token; the attention of the models",
        ATTENTION_PAPER,
        dict(embed_dim=91, num_heads=7, dropout=0.3),
        partial(token_cases, 91),
    ),
    Twin(
        "attention-masked",
        MULTI_HEAD,
        "the same without biases, with a mask over keys or pairs",
        ATTENTION_PAPER,
        dict(embed_dim=91, num_heads=7, dropout=0.3, bias=False),
        partial(mask_cases, 91),
    ),
    Twin(
        "attention-cross",
        MULTI_HEAD,
        "from one sequence to another of another length",
        ATTENTION_PAPER,
        dict(embed_dim=91, num_heads=7, dropout=0.3),
        partial(cross_cases, 91),
    ),
    Twin(
        "attention-grouped",
        MULTI_HEAD,
        "GQA: three query heads to a key/value head",
        "Ainslie et al. (arXiv 2305.13245)",
        dict(embed_dim=78, num_heads=6, num_kv_heads=2, dropout=0.3),
        partial(cross_cases, 78),
    ),
    Twin(
        "attention-multi-query",
        MULTI_HEAD,
        "MQA: all query heads to one key/value head",
        "Shazeer (arXiv 1911.02150)",
        dict(embed_dim=87, num_heads=3, num_kv_heads=1, dropout=0.3),
        partial(mask_cases, 87),
    ),
    option("causal", "a token sees itself and the tokens before it", ATTENTION_PAPER),
    option(
        "window",
        "a token sees the two before it, too",
        "Mistral (arXiv 2310.06825)",
        partial(short_cases, 42),
        window=3,
    ),
    option(
        "window-both",
        "a token sees the two before it and the two after it",
        "Longformer (arXiv 2004.05150)",
        is_causal=False,
        window=3,
    ),
    option(
        "global-tokens",
        "a window, and a token that sees all and is seen by all",
        "Longformer (arXiv 2004.05150)",
        is_causal=False,
        mask_mod=global_tokens,
    ),
    option("dilated", "every second token, in some heads", "Longformer (arXiv 2004.05150)", mask_mod=dilated),
    option(
        "rotary",
        "queries and keys turned by their positions",
        "Su et al. (arXiv 2104.09864)",
        partial(sequence_cases, 42),
        positions=Part("nn.positions.rotary:RotaryPositions", head_dim=6),
    ),
    option(
        "rotary-partial",
        "the first features turned, in neighbouring pairs",
        "GPT-J; Su et al. (arXiv 2104.09864)",
        positions=Part(
            "nn.positions.rotary:RotaryPositions", head_dim=6, base=500.0, rotary_dim=4, interleaved=True
        ),
    ),
    option(
        "alibi",
        "scores fall with distance",
        "Press et al. (arXiv 2108.12409)",
        partial(sequence_cases, 42),
        positions=Part("nn.positions.alibi:AlibiPositions", num_heads=7),
    ),
    option("score-mod", "scores changed by a function", "FlexAttention (arXiv 2412.05496)", score_mod=fading),
    option("softcap", "scores within bounds", "Gemma 2 (arXiv 2408.00118)", softcap=1.5, scale=0.7),
    option("qk-norm", "queries and keys of one length", "Qwen 3 (arXiv 2505.09388)", qk_norm="rms"),
    option("qk-layer-norm", "queries and keys normalised", "ViT-22B (arXiv 2302.05442)", qk_norm="layer"),
    option("sinks", "a learned logit for each head beside the scores", "gpt-oss", sinks="learned"),
    option(
        "off-by-one",
        "a softmax that may give nothing: 1 is added to its denominator",
        "Miller (2023), Attention Is Off By One",
        sinks="off_by_one",
    ),
    option("gated-heads", "a sigmoid gate for each head", "Qiu et al. (arXiv 2505.06708)", gate="head"),
    option("gated", "a sigmoid gate for each element", "Qiu et al. (arXiv 2505.06708)", gate="element"),
    option(
        "talking-heads",
        "scores and weights mixed between heads",
        "Shazeer et al. (arXiv 2003.02436)",
        talking_heads=True,
    ),
    option(
        "own-widths",
        "heads, keys, values and output of widths of their own, biases where Whisper has them",
        "`torch.nn.MultiheadAttention`",
        own_width_cases,
        head_dim=5,
        v_head_dim=11,
        kdim=29,
        vdim=31,
        out_dim=23,
        bias=("q", "v", "out"),
        is_causal=False,
    ),
    Twin(
        "talking-heads",
        "nn.attention.talking_heads:TalkingHeads",
        "scores of all heads to mixed weights",
        "Shazeer et al. (arXiv 2003.02436)",
        dict(num_heads=7),
        score_cases,
    ),
]
