"""The rows of `nn/attention/` beside multi-head attention: other scores, other projections, no softmax."""

from functools import partial

import numpy as np

from jax_attn.catalogue.cases import EXACT, token_cases
from jax_attn.catalogue.twin import Twin
from jax_attn.parity.cases import Case


def key_mask_cases(
    width: int, tokens: int = 5, batch: int = 3, *, mean: float = 3.0, seed: int = 7
) -> list[Case]:
    """Calls of self-attention that takes a mask over keys alone.

    Of the masked sequences one is padded on the left, and the last is nothing but padding.
    """
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, tokens, width))
    padding = np.arange(tokens) < np.linspace(tokens, 0, batch).astype(int)[:, None]
    padding[1] = padding[1, ::-1]
    return [
        Case("plain", (x,)),
        Case("large mean", (mean + rng.standard_normal(x.shape),)),
        Case("padding", (x,), {"mask": padding}, EXACT),
        Case("unbatched", (x[1],), {"mask": padding[1]}, EXACT),
        Case("one token", (x[:, :1],), lanes=EXACT),
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


def scored_cases(
    width: int, context_width: int, tokens: int = 5, others: int = 7, batch: int = 3, *, seed: int = 9
) -> list[Case]:
    """Calls with a context of another length and width, and masks over its keys and over pairs."""
    rng = np.random.default_rng(seed)
    x, context = (
        rng.standard_normal((batch, tokens, width)),
        rng.standard_normal((batch, others, context_width)),
    )
    keys = np.arange(others) < np.linspace(others, 0, batch).astype(int)[:, None]
    pairs = rng.random((batch, tokens, others)) < 0.6
    pairs[0, 1] = False
    return [
        Case("plain", (x, context)),
        Case("padding", (x, context, keys)),
        Case("pairs, unbatched", (x[0], context[0], pairs[0]), lanes=EXACT),
    ]


LINFORMER = "Wang et al. (arXiv 2006.04768)"
NYSTROM = "Xiong et al. (arXiv 2102.03902)"
PERFORMER = "Choromanski et al. (arXiv 2009.14794)"
LUONG = "Luong et al. (arXiv 1508.04025)"
GATED_DELTA = "Yang et al. (arXiv 2412.06464)"
LINEAR = "Katharopoulos et al. (arXiv 2006.16236)"

ATTENTION_KINDS = [
    Twin(
        "attention-linear-causal",
        "nn.attention.linear:LinearAttention",
        "weights that are products of features, summed up chunk by chunk",
        LINEAR,
        dict(embed_dim=77, num_heads=7, is_causal=True, chunk_size=2),
        partial(key_mask_cases, 77),
    ),
    Twin(
        "attention-linear",
        "nn.attention.linear:LinearAttention",
        "the same over all keys, or over another sequence's",
        LINEAR,
        dict(embed_dim=77, num_heads=7, bias=False),
        lambda: [*key_mask_cases(77)[2:3], *context_cases(77)],
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
    Twin(
        "attention-pooling",
        "nn.attention.pooling:AttentionPooling",
        "one learned query over a sequence: one vector for it",
        "Zhai et al. (arXiv 2303.15343)",
        dict(embed_dim=77, num_heads=7, dropout=0.3),
        lambda: key_mask_cases(77)[:4],
    ),
    Twin(
        "attention-pooling-set",
        "nn.attention.pooling:AttentionPooling",
        "several learned queries, which are added to what they found",
        "Lee et al. (arXiv 1810.00825)",
        dict(embed_dim=77, num_heads=7, num_queries=2, dropout=0.3, bias=False, residual=True),
        lambda: key_mask_cases(77)[2:3],
    ),
    Twin(
        "attention-additive",
        "nn.attention.additive:AdditiveAttention",
        "a small network scores each pair",
        "Bahdanau et al. (arXiv 1409.0473)",
        dict(embed_dim=11, context_dim=17, hidden_dim=13),
        partial(scored_cases, 11, 17),
    ),
    Twin(
        "attention-additive-bias",
        "nn.attention.additive:AdditiveAttention",
        "the same with biases, all of one width",
        "Bahdanau et al. (arXiv 1409.0473)",
        dict(embed_dim=11, bias=True),
        lambda: scored_cases(11, 11)[1:2],
    ),
    Twin(
        "attention-general",
        "nn.attention.multiplicative:MultiplicativeAttention",
        "scores that are a bilinear form of query and key",
        LUONG,
        dict(embed_dim=11, context_dim=17),
        partial(scored_cases, 11, 17),
    ),
    Twin(
        "attention-dot",
        "nn.attention.multiplicative:MultiplicativeAttention",
        "scores that are the product of query and key, nothing to learn",
        LUONG,
        dict(embed_dim=11, score="dot"),
        lambda: scored_cases(11, 11)[1:2],
    ),
    Twin(
        "fourier-mixing",
        "nn.attention.fourier:FourierMixing",
        "the Fourier transform over tokens and features, nothing to learn",
        "Lee-Thorp et al. (arXiv 2105.03824)",
        dict(embed_dim=37),
        partial(token_cases, 37),
    ),
    Twin(
        "attention-linformer",
        "nn.attention.linformer:LinformerAttention",
        "to a few mixtures of the keys: the length is projected too",
        LINFORMER,
        dict(embed_dim=77, num_heads=7, max_length=13, projected_length=2, dropout=0.3),
        lambda: [*key_mask_cases(77)[:3], *context_cases(77)[1:]],
    ),
    Twin(
        "attention-linformer-by-head",
        "nn.attention.linformer:LinformerAttention",
        "the same with projections of the length for each head",
        LINFORMER,
        dict(embed_dim=77, num_heads=7, max_length=13, projected_length=2, sharing="none", bias=False),
        lambda: context_cases(77)[:1],
    ),
    Twin(
        "attention-linformer-shared",
        "nn.attention.linformer:LinformerAttention",
        "the same with one projection of the length for keys and values",
        LINFORMER,
        dict(embed_dim=77, num_heads=7, max_length=13, projected_length=2, sharing="keys and values"),
        lambda: key_mask_cases(77)[3:4],
    ),
    Twin(
        "attention-performer",
        "nn.attention.performer:PerformerAttention",
        "softmax attention on average, by random features",
        PERFORMER,
        dict(embed_dim=77, num_heads=7, num_features=13),
        lambda: [*key_mask_cases(77)[:3], *context_cases(77)[1:]],
    ),
    Twin(
        "attention-performer-causal",
        "nn.attention.performer:PerformerAttention",
        "the same chunk by chunk, with something added to each feature",
        PERFORMER,
        dict(embed_dim=77, num_heads=7, is_causal=True, bias=False, eps=1e-4, chunk_size=2),
        lambda: key_mask_cases(77)[3:],
    ),
    Twin(
        "attention-nystrom",
        "nn.attention.nystrom:NystromAttention",
        "by way of a few landmarks, and a convolution of the values",
        NYSTROM,
        dict(embed_dim=77, num_heads=7, num_landmarks=3, conv_kernel_size=3),
        lambda: key_mask_cases(77)[:4],
    ),
    Twin(
        "attention-nystrom-exact",
        "nn.attention.nystrom:NystromAttention",
        "the same with a landmark for each token: softmax attention",
        NYSTROM,
        dict(embed_dim=77, num_heads=7, num_landmarks=5, bias=False),
        lambda: key_mask_cases(77)[2:3],
    ),
]
