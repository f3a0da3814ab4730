"""Tensors that a change remembers by their identity, with what it knows of them."""

from typing import Any

from jax_attn.parity.mutations.gates import SHAPED
from jax_attn.parity.mutations.injection import PASS, TorchCall

PARTS = (*SHAPED, "unbind", "chunk", "split", "__get__")
"""Give the same numbers in another shape, or parts of them; `__get__` is how `x.mT` is asked for."""


class Marks:
    """What is known of tensors in one forward pass, by a word for the kind of knowledge."""

    def __init__(self, call: TorchCall, kind: str):
        self.known = call.state.setdefault(kind, {})

    def put(self, value: Any, known: Any) -> Any:
        """Mark a tensor, which is kept, lest another take its identity."""
        self.known[id(value)] = value, known
        return value

    def of(self, value: Any) -> Any:
        """What is known of a tensor; None is nothing."""
        return self.known[id(value)][1] if id(value) in self.known else None

    def carried(self, call: TorchCall, *more: str) -> Any:
        """What a marked tensor becomes in another shape, or through one of `more`, is marked as it was."""
        import torch

        if call.name not in PARTS and call.name not in more:
            return PASS
        source = next((value for value in call.args if id(value) in self.known), None)
        if source is None:
            return PASS
        value = call.run()
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, torch.Tensor):
                self.put(part, self.of(source))
        return value


def tensor_and_number(call: TorchCall) -> tuple[Any, float] | None:
    """The two arguments of a function, where one is a tensor and the other a number; None for others."""
    for tensor, number in (call.args[:2], call.args[1::-1]) if len(call.args) > 1 else ():
        plain = isinstance(number, int | float) and not isinstance(number, bool)
        if plain and hasattr(tensor, "shape"):
            return tensor, float(number)
    return None
