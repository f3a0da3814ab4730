"""Constants that Flax keeps in float32 and torch computes: `constants`, the other way round.

A port may make its table of cosines when it is built, where torch makes it in every call. What rounding took
from the table is known to torch alone.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from jax_attn.parity.lanes import lanes_named
from jax_attn.parity.runners.calls import Call
from jax_attn.parity.runners.rounding import Constant, is_kept, may_be_rounded, measured
from jax_attn.parity.runners.torch_runner import TorchSide


class TorchConstants:
    """What a torch module computes in a call, and no gradient passes through.

    Args:
        module: any torch module; a copy of it is run.
        call: `call(module, *args, **kwargs)`, in place of calling the module itself.

    Attributes:
        given: keys of what Flax is given.
    """

    def __init__(self, module: Any, call: Callable[..., Any] | None):
        self.module = module
        self.call = call
        self.given = frozenset(module.state_dict())
        self._found: dict[Any, list[Constant]] = {}

    def of(self, call: Call, most: int) -> list[Constant]:
        """Those of a call, of up to `most` numbers."""
        integers = tuple(array.tobytes() for array in call.arrays if array.dtype.kind in "iub")
        key = call.form, tuple(array.shape for array in call.arrays), integers, most
        if key not in self._found:
            try:
                exact, single = (self._arrays(call, most, wide) for wide in (True, False))
                # What torch keeps in float32 too, it gets from Flax.
                computed = [array for array in exact if not is_kept(array)]
                self._found[key] = list(measured(computed, single))
            except Exception:  # what torch raises is told where it runs
                self._found[key] = []
        return self._found[key]

    def _arrays(self, call: Call, most: int, wide: bool) -> list[np.ndarray]:
        """The constants in float64, as the lane of that name has them, or in float32."""
        lane = lanes_named(["float64" if wide else "float32"])[0]
        computed = TorchSide(self.module, lane, self.call).computed(call.cast(lane), most)
        return [array for array in computed if may_be_rounded(array)]
