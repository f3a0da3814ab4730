"""The table of twins: one row a variant. The command line, the tests and the documentation read it.

A row says where the class lives (the same path under `jax_attn` and `torch_ref`), how both sides are
built, and the inputs that stress it. Sizes are primes and all different, so that a swapped axis shows.
"""

from jax_attn.catalogue.attention import ATTENTION
from jax_attn.catalogue.attention_kinds import ATTENTION_KINDS
from jax_attn.catalogue.attention_projections import ATTENTION_PROJECTIONS
from jax_attn.catalogue.heads import HEADS
from jax_attn.catalogue.ladder import LADDER
from jax_attn.catalogue.layers import LAYERS
from jax_attn.catalogue.models import MODELS
from jax_attn.catalogue.positions import POSITIONS
from jax_attn.catalogue.primitives import PRIMITIVES
from jax_attn.catalogue.stacks import STACKS
from jax_attn.catalogue.twin import Twin

CATALOGUE: dict[str, Twin] = {
    twin.name: twin
    for twin in [
        *LADDER,
        *PRIMITIVES,
        *POSITIONS,
        *ATTENTION,
        *ATTENTION_KINDS,
        *ATTENTION_PROJECTIONS,
        *LAYERS,
        *STACKS,
        *HEADS,
        *MODELS,
    ]
}
"""Every row by its name."""

__all__ = ["CATALOGUE", "Twin"]


def __dir__() -> list[str]:
    return __all__
