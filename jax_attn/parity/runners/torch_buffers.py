"""The state of a torch module: what a call makes of its buffers, and how everything is put back."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from jax_attn.parity.runners.run import Buffers
from jax_attn.parity.runners.torch_casts import INTERNAL
from jax_attn.parity.runners.torch_keys import keyed
from jax_attn.weights.tensors import as_numpy


class KeptBuffers:
    """The buffers of `module` as they are now, by their `keys`; its plain attributes are put back too."""

    def __init__(self, module: Any, keys: Mapping[str, Collection[str]]):
        self._module = module
        self._keys = keys
        self._entries = [(owner, dict(owner._buffers)) for owner in module.modules()]
        self._plain = [
            (owner, {name: _shallow(value) for name, value in vars(owner).items() if name not in INTERNAL})
            for owner in module.modules()
        ]
        self._named = self._by_key()
        self._values = {id(buffer): buffer.clone() for buffer in self._named.values()}

    def compared(self) -> Buffers:
        """What they were, and what they are by now: the same array where nothing was changed."""
        before = {key: as_numpy(self._values[id(buffer)]) for key, buffer in self._named.items()}
        after: dict[str, np.ndarray] = {}
        for key, buffer in self._by_key().items():
            now = as_numpy(buffer.detach())
            same = key in before and np.array_equal(now, before[key]) and now.dtype == before[key].dtype
            after[key] = before[key] if same else now.copy()
        return Buffers(before, after)

    def _by_key(self) -> dict[str, Any]:
        return keyed(self._module.named_buffers(remove_duplicate=False), self._keys)

    def put_back(self) -> None:
        """Give the module its buffers back, with the values they had, and its attributes.

        What a call has kept for the next (an attention, a cache) belongs to its own graph.
        """
        for owner, attributes in self._plain:
            for name in vars(owner).keys() - attributes.keys() - set(INTERNAL):
                del vars(owner)[name]
            vars(owner).update(attributes)
        for owner, entries in self._entries:
            owner._buffers.clear()
            owner._buffers.update(entries)
        for buffer in self._named.values():
            value = self._values[id(buffer)]
            if not buffer.equal(value):  # one that is expanded cannot be written to, nor have been
                buffer.data.copy_(value)


def _shallow(value: Any) -> Any:
    """A plain container that a call may add to, copied."""
    return type(value)(value) if type(value) in (list, dict, set) else value
