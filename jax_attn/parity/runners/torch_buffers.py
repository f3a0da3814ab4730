"""The buffers of a torch module: what a call makes of them, and how they are put back."""

from typing import Any

import numpy as np

from jax_attn.parity.runners.run import Buffers
from jax_attn.weights.tensors import as_numpy


class KeptBuffers:
    """The buffers of `module` as they are now."""

    def __init__(self, module: Any):
        self._module = module
        self._entries = [(owner, dict(owner._buffers)) for owner in module.modules()]
        self._named = dict(module.named_buffers(remove_duplicate=False))
        self._values = {id(buffer): buffer.clone() for buffer in self._named.values()}

    def compared(self) -> Buffers:
        """What they were, and what they are by now: the same array where nothing was changed."""
        before = {key: as_numpy(self._values[id(buffer)]) for key, buffer in self._named.items()}
        after: dict[str, np.ndarray] = {}
        for key, buffer in self._module.named_buffers(remove_duplicate=False):
            now = as_numpy(buffer.detach())
            same = key in before and np.array_equal(now, before[key]) and now.dtype == before[key].dtype
            after[key] = before[key] if same else now.copy()
        return Buffers(before, after)

    def put_back(self) -> None:
        """Give the module its buffers back, with the values they had."""
        for owner, entries in self._entries:
            owner._buffers.clear()
            owner._buffers.update(entries)
        for buffer in self._named.values():
            value = self._values[id(buffer)]
            if not buffer.equal(value):  # one that is expanded cannot be written to, nor have been
                buffer.data.copy_(value)
