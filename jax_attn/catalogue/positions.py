"""The rows of `nn/positions/`."""

from functools import partial
from typing import Any

import numpy as np

from jax_attn.catalogue.cases import EXACT, token_cases
from jax_attn.catalogue.twin import ATTENTION_PAPER, BERT, Twin
from jax_attn.models.part import Part
from jax_attn.parity.cases import Case

ALIBI = "Press et al. (arXiv 2108.12409)"
ROTARY = "Su et al. (arXiv 2104.09864)"


def places(tokens: int, batch: int) -> np.ndarray:
    """Positions `(batch, tokens)`: counted, two packed texts, then with padding on the left."""
    place = np.arange(tokens)
    starts = np.arange(batch)[:, None]
    left = np.maximum(place - starts, 0)
    return np.where(starts == 1, place % (tokens // 2 + 1), left)


def score_cases(heads: int, queries: int = 5, keys: int = 11, batch: int = 3) -> list[Case]:
    """Scores of all pairs, their positions counted and given."""
    draw = np.random.default_rng(0).standard_normal
    scores = draw((batch, heads, queries, keys))
    given = {"q_positions": places(queries, batch) + 4, "kv_positions": places(keys, batch)}
    one = Case("one token", (scores[:, :, :1, :1],), {"q_positions": np.full((1, 1), 10_007)}, EXACT)
    return [Case("plain", (scores,)), Case("positions", (scores,), given), one]


def head_cases(width: int, heads: int = 7, tokens: int = 5, batch: int = 3) -> list[Case]:
    """Queries or keys, their positions counted and given."""
    x = np.random.default_rng(0).standard_normal((batch, tokens, heads, width))
    far = places(tokens, batch) + np.array([[0], [7], [10_007]])
    return [
        Case("plain", (x,)),
        Case("positions", (x, places(tokens, batch))),
        Case("far positions", (x, far), lanes=EXACT),
        Case("one token", (x[:, :1], np.array([[11]])), lanes=EXACT),
    ]


def given_position_cases(width: int, tokens: int = 5, batch: int = 3) -> list[Case]:
    """Tokens with packed texts and padding, counted for each sequence or for all."""
    x = np.random.default_rng(0).standard_normal((batch, tokens, width))
    mask = np.arange(tokens) >= np.array([[0], [2], [tokens]])[:batch]
    padded = np.where(mask, np.cumsum(mask, axis=1) - 1, -1)
    return [
        Case("counted", (x,), lanes=EXACT),
        Case("padding on the left", (x, padded)),
        Case("packed", (x, places(tokens, batch)), lanes=EXACT),
        Case("one for all", (x, np.arange(tokens) + 3), lanes=EXACT),
        Case("unbatched", (x[1], padded[1]), lanes=EXACT),
    ]


def shaw_cases() -> list[Case]:
    """Scores, queries and weights, their positions counted and given."""
    scores, positions, one_token = score_cases(7)
    draw = np.random.default_rng(1).standard_normal
    query, weights = draw((3, 5, 7, 13)), draw((3, 7, 5, 11))
    return [
        Case("plain", (*scores.args, query, weights)),
        Case("positions", (*scores.args, query, weights), positions.kwargs),
        Case("one token", (*one_token.args, query[:, :1], weights[:, :, :1, :1]), one_token.kwargs, EXACT),
    ]


def rotary(name: str, summary: str, source: str = ROTARY, *, head_dim: int = 22, **options: Any) -> Twin:
    """A row for an option of rotary positions."""
    return Twin(
        f"positions-rotary{name}",
        "nn.positions.rotary:RotaryPositions",
        summary,
        source,
        dict(head_dim=head_dim, **options),
        partial(head_cases, head_dim),
    )


def scaled(kind: str, **arguments: Any) -> Part:
    """The scaling of a row."""
    return Part(f"nn.positions.rotary_scaling:{kind}", **arguments)


POSITIONS = [
    Twin(
        "positions-learned",
        "nn.positions.learned:LearnedPositions",
        "a learned vector for each position",
        BERT,
        dict(num_embeddings=11, embedding_dim=7),
        partial(token_cases, 7, context=11),
    ),
    Twin(
        "positions-learned-offset",
        "nn.positions.learned:LearnedPositions",
        "the same from a later row on, and a row for padding",
        "RoBERTa (arXiv 1907.11692)",
        dict(num_embeddings=13, embedding_dim=7, offset=2, padding_idx=1),
        partial(given_position_cases, 7),
    ),
    Twin(
        "positions-sinusoidal",
        "nn.positions.sinusoidal:SinusoidalPositions",
        "sines and cosines of the position, nothing to learn",
        ATTENTION_PAPER,
        dict(num_embeddings=509, embedding_dim=7),
        partial(token_cases, 7, context=509),
    ),
    Twin(
        "positions-sinusoidal-halves",
        "nn.positions.sinusoidal:SinusoidalPositions",
        "sines, then cosines, as a buffer that checkpoints hold",
        "tensor2tensor; Whisper (arXiv 2212.04356)",
        dict(num_embeddings=17, embedding_dim=14, layout="halves", persistent=True),
        partial(given_position_cases, 14),
    ),
    *(
        Twin(
            f"positions-alibi{name}",
            "nn.positions.alibi:AlibiPositions",
            f"a penalty on distance, its slopes for {heads} heads",
            ALIBI,
            dict(num_heads=heads),
            partial(score_cases, heads),
        )
        for name, heads in {"": 7, "-power-of-two": 8}.items()
    ),
    rotary("", "pairs of features turned by angles that grow with the position"),
    rotary(
        "-interleaved",
        "the same, the pairs being neighbours, of some features",
        rotary_dim=14,
        interleaved=True,
    ),
    rotary(
        "-linear",
        "frequencies divided",
        "Chen et al. (arXiv 2306.15595)",
        scaling=scaled("LinearScaling", factor=3.0),
    ),
    rotary(
        "-dynamic",
        "a base that grows with the text",
        "bloc97 and emozilla: dynamic NTK",
        scaling=scaled("DynamicNTKScaling", factor=3.0, original_length=5),
    ),
    rotary(
        "-yarn",
        "frequencies divided where waves are long, and scores rescaled",
        "Peng et al. (arXiv 2309.00071)",
        scaling=scaled("YarnScaling", factor=3.0, original_length=997),
    ),
    rotary(
        "-llama3",
        "frequencies divided where waves are long",
        "Llama 3.1",
        scaling=scaled(
            "Llama3Scaling", factor=3.0, low_freq_factor=1.0, high_freq_factor=5.0, original_length=997
        ),
    ),
    rotary(
        "-longrope",
        "a factor for each frequency, others where the text is long",
        "Ding et al. (arXiv 2402.13753)",
        head_dim=10,
        scaling=scaled(
            "LongRopeScaling",
            short_factor=(1.0, 1.25, 1.5, 1.75, 2.0),
            long_factor=(1.5, 3.0, 5.0, 7.0, 11.0),
            factor=11.0,
            original_length=5,
        ),
    ),
    *(
        Twin(
            f"positions-t5{name}",
            "nn.positions.t5:T5Positions",
            f"a learned bias for each bucket of distances{summary}",
            "Raffel et al. (arXiv 1910.10683)",
            dict(num_heads=7, num_buckets=buckets, max_distance=11, bidirectional=not name),
            partial(score_cases, 7, 17, 19),
        )
        for name, summary, buckets in (("", "", 10), ("-causal", ", of those before", 9))
    ),
    *(
        Twin(
            f"positions-shaw{name}",
            "nn.positions.shaw:ShawPositions",
            f"a learned key{summary} for each distance",
            "Shaw et al. (arXiv 1803.02155)",
            dict(head_dim=13, max_distance=3, values=not name),
            shaw_cases,
        )
        for name, summary in {"": " and value", "-keys": ""}.items()
    ),
    Twin(
        "positions-axial-rotary",
        "nn.positions.axial_rotary:AxialRotaryPositions",
        "pairs of features turned by the row and by the column of a patch",
        "Qwen2-VL (arXiv 2409.12191)",
        dict(head_dim=20, width=3, base=500.0),
        partial(head_cases, 20),
    ),
]
