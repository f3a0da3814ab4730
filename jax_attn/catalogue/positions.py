"""The rows of `nn/positions/`."""

from functools import partial

from jax_attn.catalogue.cases import token_cases
from jax_attn.catalogue.twin import ATTENTION_PAPER, BERT, Twin

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
]
