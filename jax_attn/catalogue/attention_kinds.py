"""The rows of `nn/attention/` beside multi-head attention: other scores, other projections, no softmax."""

from functools import partial
from typing import Any

import numpy as np

from jax_attn.catalogue.cases import EXACT
from jax_attn.catalogue.twin import Twin
from jax_attn.parity.cases import Case


def key_mask_cases(
    width: int, tokens: int = 5, batch: int = 3, *, mean: float = 3.0, seed: int = 7, **options: Any
) -> list[Case]:
    """Calls of self-attention that takes a mask over keys alone; `options` go along with each.

    Of the masked sequences one is padded on the left, and the last is nothing but padding.
    """
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, tokens, width))
    padding = np.arange(tokens) < np.linspace(tokens, 0, batch).astype(int)[:, None]
    padding[1] = padding[1, ::-1]
    return [
        Case("plain", (x,), options),
        Case("large mean", (mean + rng.standard_normal(x.shape),), options),
        Case("padding", (x,), {"mask": padding, **options}, EXACT),
        Case("unbatched", (x[1],), {"mask": padding[1], **options}, EXACT),
        Case("one token", (x[:, :1],), options, EXACT),
    ]


def context_cases(
    width: int, tokens: int = 5, others: int = 7, batch: int = 3, *, seed: int = 8
) -> list[Case]:
    """Calls with a context of another length, padded."""
    rng = np.random.default_rng(seed)
    x, context = (rng.standard_normal((batch, n, width)) for n in (tokens, others))
    padding = np.arange(others) < np.linspace(others, 0, batch).astype(int)[:, None]
    return [
        Case("shorter than its context", (x, context, padding)),
        Case("longer than its context, unbatched", (context[0], x[0]), lanes=EXACT),
    ]


GATED_DELTA = "Yang et al. (arXiv 2412.06464)"
LINEAR = "Katharopoulos et al. (arXiv 2006.16236)"

ATTENTION_KINDS = [
    Twin(
        "attention-linear-causal",
        "nn.attention.linear:LinearAttention",
        "weights that are products of features, summed up chunk by chunk",
        LINEAR,
        dict(embed_dim=77, num_heads=7, chunk_size=2),
        partial(key_mask_cases, 77, is_causal=True),
    ),
    Twin(
        "attention-linear",
        "nn.attention.linear:LinearAttention",
        "the same over all keys, or over another sequence's",
        LINEAR,
        dict(embed_dim=77, num_heads=7, bias=False),
        lambda: [*key_mask_cases(77)[2:4], *context_cases(77)],
    ),
    Twin(
        "gated-delta-net",
        "nn.attention.gated_delta:GatedDeltaNet",
        "a memory that fades, and is corrected by what each token adds to it",
        GATED_DELTA,
        dict(
            embed_dim=37,
            num_heads=6,
            num_qk_heads=2,
            head_dim=7,
            value_head_dim=11,
            conv_size=3,
            chunk_size=2,
        ),
        lambda: key_mask_cases(37)[:3],
    ),
]
