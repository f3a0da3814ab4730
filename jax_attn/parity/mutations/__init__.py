"""Known ways for a port to go wrong, to be injected into one side of a pair.

>>> from jax_attn.parity.mutations import MUTATIONS, inject
>>> injected = inject(MUTATIONS["gelu-form"], torch_module)  # doctest: +SKIP
>>> injected.module(x)  # a copy; torch_module is as it was  # doctest: +SKIP
"""

from typing import Any

from jax_attn.parity.mutations.activations import ACTIVATIONS
from jax_attn.parity.mutations.attention import ATTENTION
from jax_attn.parity.mutations.batch_norm import BATCH_NORM
from jax_attn.parity.mutations.convolutions import CONVOLUTIONS
from jax_attn.parity.mutations.delta_rule import DELTA_RULE
from jax_attn.parity.mutations.differential import DIFFERENTIAL
from jax_attn.parity.mutations.features import FEATURES
from jax_attn.parity.mutations.flattening import FLATTENINGS
from jax_attn.parity.mutations.gates import GATES
from jax_attn.parity.mutations.gradients import GRADIENTS
from jax_attn.parity.mutations.layers import LAYERS
from jax_attn.parity.mutations.losses import LOSSES
from jax_attn.parity.mutations.masks import MASKS
from jax_attn.parity.mutations.models import MODELS
from jax_attn.parity.mutations.mutation import Injected, Mutation, inject
from jax_attn.parity.mutations.norm_uses import NORM_USES
from jax_attn.parity.mutations.norms import NORMS, eps_mutation
from jax_attn.parity.mutations.nystrom import NYSTROM
from jax_attn.parity.mutations.precision import PRECISION
from jax_attn.parity.mutations.relative import RELATIVE
from jax_attn.parity.mutations.residual import RESIDUAL
from jax_attn.parity.mutations.rotary import ROTARY, base_mutation
from jax_attn.parity.mutations.score_sums import SCORE_SUMS
from jax_attn.parity.mutations.score_terms import SCORE_TERMS
from jax_attn.parity.mutations.split_parts import SPLIT_PARTS
from jax_attn.parity.mutations.weights import WEIGHTS

_FAMILIES = (
    *(ATTENTION, MASKS, SCORE_TERMS, ROTARY, WEIGHTS, ACTIVATIONS, GATES, NORM_USES),
    *(SCORE_SUMS, SPLIT_PARTS, RELATIVE, DIFFERENTIAL, FEATURES, DELTA_RULE, NYSTROM),
    *(FLATTENINGS, NORMS, BATCH_NORM, CONVOLUTIONS, RESIDUAL, LAYERS, GRADIENTS, MODELS, LOSSES, PRECISION),
)
MUTATIONS: dict[str, Mutation] = {mutation.name: mutation for family in _FAMILIES for mutation in family}


def mutations_for(flax_module: Any, torch_module: Any) -> list[Mutation]:
    """The mutations that a pair could have, as far as is known without running it.

    Args:
        flax_module: any NNX module; it is torch's module that is looked at.
        torch_module: its counterpart.
    """
    return [mutation for mutation in MUTATIONS.values() if mutation.fits(torch_module)]


__all__ = ["MUTATIONS", "Injected", "Mutation", "base_mutation", "eps_mutation", "inject", "mutations_for"]
