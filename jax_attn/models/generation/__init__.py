"""Writing texts on: by the likeliest token, by draws, or by a search with beams."""

from jax_attn.models.generation.beam_search import Beams, beam_search, gnmt_penalty
from jax_attn.models.generation.generate import Generation, generate
from jax_attn.models.generation.logits import keep_min_p, keep_top_k, keep_top_p, penalize_repetition
from jax_attn.models.generation.sampling import Sampling

__all__ = [
    "Beams",
    "Generation",
    "Sampling",
    "beam_search",
    "generate",
    "gnmt_penalty",
    "keep_min_p",
    "keep_top_k",
    "keep_top_p",
    "penalize_repetition",
]


def __dir__() -> list[str]:
    return __all__
