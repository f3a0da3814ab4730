"""What a Flax module keeps in float32, as it is before rounding."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_attn.parity.runners.calls import Call
from jax_attn.parity.runners.rounding import before_rounding, may_be_rounded
from jax_attn.parity.runners.torch_constants import TorchConstants
from jax_attn.weights.rules import Slot


class RoundedLeaves:
    """The leaves of a Flax module that are numbers rounded to float32, and that torch did not give.

    Args:
        table: the slots, each with its position among the leaves.
        leaves: the leaves, in the dtypes that they came in.
        constants: those of torch; None if none shall be lifted.
    """

    def __init__(
        self, table: Sequence[tuple[Slot, int]], leaves: Sequence[Any], constants: TorchConstants | None
    ):
        self.constants = constants
        given = constants.given if constants is not None else ()
        learned = {
            position
            for slot, position in table
            if isinstance(slot.variable, nnx.Param | nnx.BatchStat)
            or all(place.key in given for place in slot.places)
        }
        arrays = {
            position: np.asarray(leaf)
            for position, leaf in enumerate(leaves)
            if constants is not None
            and position not in learned
            and str(leaf.dtype) in ("float32", "complex64")
        }
        self.arrays = {position: array for position, array in arrays.items() if may_be_rounded(array)}
        self.most = 2 * max((array.size for array in self.arrays.values()), default=0)

    def lift(self, leaves: list[Any], call: Call) -> None:
        """Put what torch computes in this call in their places."""
        if self.constants is None or not self.arrays:
            return
        constants = self.constants.of(call, self.most)
        for position, array in self.arrays.items():
            exact = before_rounding(array, constants)
            leaves[position] = jnp.asarray(array if exact is None else exact, leaves[position].dtype)
