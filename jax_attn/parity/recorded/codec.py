"""Values of a recorded run as JSON and tensors, and back: containers and a few classes, each by its name."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from jax_attn.weights.files import DTYPES
from jax_attn.weights.tensors import as_numpy, is_torch_tensor


class Encoder:
    """Turns values into JSON; `tensors` takes their arrays. The same memory is written once, and read as one.

    Args:
        classes: the dataclasses that may occur.
    """

    def __init__(self, classes: Mapping[str, type]):
        self.classes = classes
        self.tensors: dict[str, np.ndarray] = {}
        self._known: dict[Any, str] = {}

    def encode(self, value: Any) -> Any:
        """Return the value as JSON.

        Raises:
            ValueError: a type that is none of these, or a tensor's dtype that safetensors does not have.
        """
        name = type(value).__name__
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if is_dataclass(value) and name in self.classes:
            content = {each.name: getattr(value, each.name) for each in fields(value)}
            return {name: {key: self._field(each) for key, each in content.items()}}
        if is_torch_tensor(value) or hasattr(value, "shape"):
            return {"tensor": self._key(value)}
        if type(value) in (tuple, list):
            return {name: list(map(self.encode, value))}
        if isinstance(value, Mapping) and all(isinstance(key, str | int) for key in value):
            return {"dict": [[key, self.encode(each)] for key, each in value.items()]}
        raise ValueError(f"a trace cannot hold an input of type {name}")

    def _field(self, value: Any) -> Any:
        return {"set": sorted(value, key=str)} if isinstance(value, set) else self.encode(value)

    def _key(self, value: Any) -> str:
        array = as_numpy(value)
        if array.dtype not in DTYPES.values():
            raise ValueError(f"a trace cannot hold a tensor of dtype {array.dtype}")
        lies = array.__array_interface__
        memory = lies["data"][0], array.shape, array.strides, str(array.dtype)
        if memory not in self._known:
            self._known[memory] = f"t{len(self.tensors)}"
            self.tensors[self._known[memory]] = array
        return self._known[memory]


def decode(value: Any, classes: Mapping[str, type], tensors: Mapping[str, np.ndarray]) -> Any:
    """Return what `Encoder.encode` was given."""
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind in classes:
        return classes[kind](**{name: decode(each, classes, tensors) for name, each in content.items()})
    if kind == "dict":
        return {key: decode(each, classes, tensors) for key, each in content}
    return {"tuple": tuple, "list": list, "set": set}[kind](
        decode(each, classes, tensors) for each in content
    )
