"""The rows of `nn/attention/` whose queries, keys and values are made in other ways than by three projections."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from jax_attn.catalogue.cases import EXACT
from jax_attn.catalogue.twin import Twin
from jax_attn.models.part import Part
from jax_attn.parity.cases import Case


def placed_cases(width: int, tokens: int = 5, batch: int = 3, *, seed: int = 9) -> list[Case]:
    """Calls of self-attention that knows where tokens stand: left padding far from 0, pairs, one token.

    The last sequence is nothing but padding, and one row of the pairs is closed.
    """
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((batch, tokens, width))
    place, starts = np.arange(tokens), np.linspace(0, tokens, batch).astype(int)[:, None]
    left = place >= starts
    left_padding = {"mask": left, "positions": (1009 + place - starts) * left}
    pairs = rng.random((batch, tokens, tokens)) < 0.7
    pairs[0, 1] = False
    return [
        Case("plain", (x,)),
        Case("left padding, far", (x,), {**left_padding, "return_weights": True}, EXACT),
        Case("unbatched pairs", (x[0],), {"mask": pairs[0]}, EXACT),
        Case("one token", (x[:, :1],), lanes=EXACT),
        Case("packed", (x,), packed_segments(batch, tokens), EXACT),
    ]


def packed_segments(batch: int, tokens: int) -> dict[str, Any]:
    """Two texts to a row, of another length in each row."""
    return {"segment_ids": 1 + (np.arange(tokens) >= np.linspace(1, tokens - 1, batch).round()[:, None])}


def windowed_cases(width: int) -> list[Case]:
    """A plain call, and one of packed rows."""
    plain, *_, packed = placed_cases(width)
    return [plain, packed]


def rotary(head_dim: int, **options: Any) -> Part:
    """Rotary positions."""
    return Part("nn.positions.rotary:RotaryPositions", head_dim=head_dim, **options)


def memory_cases(width: int, tokens: int = 5, past: int = 7, batch: int = 3, *, seed: int = 11) -> list[Case]:
    """Calls of self-attention with and without a memory: masked over keys, over pairs, and one token."""
    plain, padded, pairs, _, packed = placed_cases(width, tokens, batch)
    memory = np.random.default_rng(seed).standard_normal((batch, past, width))
    keys = np.arange(past + tokens) >= np.linspace(0, past + tokens, batch).astype(int)[:, None]
    (x,) = plain.args
    return [
        plain,
        Case("left padding", (x,), {"mask": padded.kwargs["mask"]}, EXACT),
        pairs,
        Case("memory", (x, memory), {"mask": keys, "return_weights": True}, EXACT),
        Case("one token after a memory", (x[0, :1], memory[0]), lanes=EXACT),
        packed,
    ]


def with_table(cases: list[Case], rows: int, width: int, seed: int = 10) -> list[Case]:
    """The calls with a table of relative embeddings as the second argument."""
    table = np.random.default_rng(seed).standard_normal((rows, width))
    return [replace(case, args=(*case.args, table)) for case in cases]


DEBERTA = "He et al. (arXiv 2006.03754)"
OF_DISENTANGLED = dict(embed_dim=39, num_heads=3, max_relative_positions=7, dropout=0.3)
DIFFERENTIAL = "Ye et al. (arXiv 2410.05258)"
TRANSFORMER_XL = "Dai et al. (arXiv 1901.02860)"
LATENT = "DeepSeek-V2 (arXiv 2405.04434)"
OF_LATENT = dict(
    embed_dim=37, num_heads=3, kv_lora_rank=17, qk_nope_head_dim=13, qk_rope_head_dim=6, v_head_dim=11
)

ATTENTION_PROJECTIONS = [
    Twin(
        "attention-latent",
        "nn.attention.latent:LatentAttention",
        "MLA: keys and values of all heads from one short vector a token",
        LATENT,
        dict(OF_LATENT, q_lora_rank=19, dropout=0.3, is_causal=True, positions=rotary(6, interleaved=True)),
        partial(placed_cases, 37),
    ),
    Twin(
        "attention-latent-plain-queries",
        "nn.attention.latent:LatentAttention",
        "the same with queries from the input, in both directions, with ALiBi",
        LATENT,
        dict(
            OF_LATENT, bias=True, positions=Part("nn.positions.alibi:AlibiPositions", num_heads=3), scale=0.3
        ),
        lambda: placed_cases(37)[1:3],
    ),
    Twin(
        "attention-latent-window",
        "nn.attention.latent:LatentAttention",
        "the same of the nearest tokens alone",
        LATENT,
        dict(OF_LATENT, is_causal=True, positions=rotary(6), window=3),
        partial(windowed_cases, 37),
    ),
    Twin(
        "attention-disentangled",
        "nn.attention.disentangled:DisentangledAttention",
        "DeBERTa: content to content, content to position, position to content",
        DEBERTA,
        dict(OF_DISENTANGLED, position_dropout=0.2),
        lambda: with_table(placed_cases(39, tokens=11), 14, 39),
    ),
    Twin(
        "attention-disentangled-buckets",
        "nn.attention.disentangled:DisentangledAttention",
        "the same in log buckets, with projections shared by content and positions",
        "DeBERTa-v3 (arXiv 2111.09543)",
        dict(OF_DISENTANGLED, position_buckets=4, share_att_key=True),
        lambda: with_table(placed_cases(39, tokens=11)[:2], 8, 39),
    ),
    Twin(
        "attention-differential",
        "nn.attention.differential:DifferentialAttention",
        "the difference of two softmaxes, each head normalised",
        DIFFERENTIAL,
        dict(
            embed_dim=37,
            num_heads=4,
            head_dim=6,
            dropout=0.3,
            is_causal=True,
            positions=rotary(6),
            layer_index=3,
        ),
        partial(placed_cases, 37),
    ),
    Twin(
        "attention-differential-grouped",
        "nn.attention.differential:DifferentialAttention",
        "the same with two pairs of query heads to a pair of keys and values",
        DIFFERENTIAL,
        dict(embed_dim=37, num_heads=12, num_kv_heads=4, head_dim=5, bias=False, scale=0.3),
        lambda: placed_cases(37)[1:3],
    ),
    Twin(
        "attention-relative",
        "nn.attention.relative:RelativeAttention",
        "Transformer-XL: content and position biases, distances, a memory",
        TRANSFORMER_XL,
        dict(embed_dim=38, num_heads=3, head_dim=7, dropout=0.3, is_causal=True),
        partial(memory_cases, 38),
    ),
    Twin(
        "attention-relative-both-ways",
        "nn.attention.relative:RelativeAttention",
        "the same where a token sees those after it too",
        TRANSFORMER_XL,
        dict(embed_dim=38, num_heads=2, bias=True),
        lambda: memory_cases(38)[1:4],
    ),
    Twin(
        "attention-relative-window",
        "nn.attention.relative:RelativeAttention",
        "the same of the nearest tokens alone, before and after",
        TRANSFORMER_XL,
        dict(embed_dim=38, num_heads=2, window=2),
        lambda: [memory_cases(38)[index] for index in (0, 3)],
    ),
]
