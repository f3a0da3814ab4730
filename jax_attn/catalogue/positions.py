"""The rows of `nn/positions/`."""

from functools import partial
from typing import Any

import numpy as np

from jax_attn.catalogue.cases import EXACT, token_cases
from jax_attn.catalogue.twin import ATTENTION_PAPER, BERT, Part, Twin
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
    one = Case("one token", (scores[:, :, :1, :1],), {"q_positions": np.full((1, 1), 100_003)}, EXACT)
    return [Case("plain", (scores,)), Case("positions", (scores,), given), one]


def head_cases(width: int, heads: int = 7, tokens: int = 5, batch: int = 3) -> list[Case]:
    """Queries or keys, their positions counted and given."""
    x = np.random.default_rng(0).standard_normal((batch, tokens, heads, width))
    far = places(tokens, batch) + np.array([[0], [7], [100_003]])
    return [
        Case("plain", (x,)),
        Case("positions", (x, places(tokens, batch))),
        Case("far positions", (x, far), lanes=EXACT),
        Case("one token", (x[:, :1], np.array([[11]])), lanes=EXACT),
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
        "positions-sinusoidal",
        "nn.positions.sinusoidal:SinusoidalPositions",
        "sines and cosines of the position, nothing to learn",
        ATTENTION_PAPER,
        dict(num_embeddings=509, embedding_dim=7),
        partial(token_cases, 7, context=509),
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
]
