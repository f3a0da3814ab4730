"""NumPy arrays and torch tensors, into each other: bfloat16 and the 8-bit floats too, which NumPy lacks."""

from typing import Any

import ml_dtypes
import numpy as np


def is_torch_tensor(value: Any) -> bool:
    """Whether `value` is a torch tensor, asked without importing torch."""
    return any(
        kind.__module__.split(".")[0] == "torch" and kind.__name__ == "Tensor" for kind in type(value).__mro__
    )


def as_numpy(value: Any) -> np.ndarray:
    """The value as a NumPy array; a view of the same memory where that is possible.

    Args:
        value: a NumPy or JAX array, or a torch tensor on any device, of any dtype.
    """
    if not is_torch_tensor(value):
        return np.asarray(value)
    tensor = value.detach().cpu()
    name = str(tensor.dtype).removeprefix("torch.")
    if not (name == "bfloat16" or name.startswith("float8")):
        return tensor.numpy()
    import torch

    bits = torch.int16 if tensor.element_size() == 2 else torch.uint8
    return tensor.contiguous().view(bits).numpy().view(getattr(ml_dtypes, name))


def as_torch(array: np.ndarray) -> Any:
    """The array as a torch tensor with memory of its own.

    Raises:
        ModuleNotFoundError: torch is not installed; the `torch` extra brings it.
    """
    import torch

    array = np.array(array, order="C", copy=True)
    if array.dtype.kind != "V" and array.dtype.isbuiltin:
        return torch.from_numpy(array)
    bits = np.int16 if array.dtype.itemsize == 2 else np.uint8
    return torch.from_numpy(array.view(bits)).view(getattr(torch, array.dtype.name))
