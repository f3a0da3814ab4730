"""Known ways for a port to go wrong, to be planted into one side of a pair.

>>> from jax_attn.parity.faults import FAULTS, plant
>>> planted = plant(FAULTS["gelu-form"], torch_module)  # doctest: +SKIP
>>> planted.module(x)  # a copy; torch_module is as it was  # doctest: +SKIP
"""

from typing import Any

from jax_attn.parity.faults.activations import ACTIVATIONS
from jax_attn.parity.faults.attention import ATTENTION
from jax_attn.parity.faults.batch_norm import BATCH_NORM
from jax_attn.parity.faults.convolutions import CONVOLUTIONS
from jax_attn.parity.faults.fault import Fault, Planted, plant
from jax_attn.parity.faults.gradients import GRADIENTS
from jax_attn.parity.faults.layers import LAYERS
from jax_attn.parity.faults.losses import LOSSES
from jax_attn.parity.faults.masks import MASKS
from jax_attn.parity.faults.models import MODELS
from jax_attn.parity.faults.norms import NORMS, eps_fault
from jax_attn.parity.faults.precision import PRECISION
from jax_attn.parity.faults.residual import RESIDUAL
from jax_attn.parity.faults.rotary import ROTARY, base_fault
from jax_attn.parity.faults.weights import WEIGHTS

_FAMILIES = (
    *(ATTENTION, MASKS, ROTARY, WEIGHTS, ACTIVATIONS),
    *(NORMS, BATCH_NORM, CONVOLUTIONS, RESIDUAL, LAYERS, GRADIENTS, MODELS, LOSSES, PRECISION),
)
FAULTS: dict[str, Fault] = {fault.name: fault for family in _FAMILIES for fault in family}


def faults_for(flax_module: Any, torch_module: Any) -> list[Fault]:
    """The faults that a pair could have, as far as can be told without running it.

    Args:
        flax_module: any NNX module; what is told of the pair, torch's module tells.
        torch_module: its counterpart.
    """
    return [fault for fault in FAULTS.values() if fault.fits(torch_module)]


__all__ = ["FAULTS", "Fault", "Planted", "base_fault", "eps_fault", "faults_for", "plant"]
