"""The rows of `nn/primitives.py`: of the leaves that torch does not have as they are here."""

from functools import partial

from jax_attn.catalogue.cases import token_cases
from jax_attn.catalogue.twin import Twin

PRIMITIVES = [
    Twin(
        "rms-norm",
        "nn.primitives:RMSNorm",
        "x / sqrt(mean(x²) + eps) · scale",
        "Zhang and Sennrich (arXiv 1910.07467)",
        dict(normalized_shape=37),
        partial(token_cases, 37),
    ),
    Twin(
        "rms-norm-unit-offset",
        "nn.primitives:RMSNorm",
        "the same times 1 + scale",
        "Gemma (arXiv 2403.08295)",
        dict(normalized_shape=37, unit_offset=True),
        partial(token_cases, 37),
    ),
]
