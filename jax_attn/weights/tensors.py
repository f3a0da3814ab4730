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
        value: a NumPy or JAX array, or a torch tensor on any device, of any dtype and layout.
    """
    if not is_torch_tensor(value):
        return np.asarray(value)
    tensor = value.detach().cpu()
    name = str(tensor.dtype).removeprefix("torch.")
    if not (name == "bfloat16" or name.startswith("float8")):
        return tensor.resolve_conj().resolve_neg().numpy()
    import torch

    return (
        tensor.contiguous().view(_bits(torch, tensor.element_size())).numpy().view(getattr(ml_dtypes, name))
    )


def as_torch(array: np.ndarray) -> Any:
    """The array as a torch tensor with memory of its own.

    Raises:
        ModuleNotFoundError: torch is not installed; the `torch` extra brings it.
    """
    import torch

    array = np.array(array, order="C", copy=True)
    if array.dtype.isbuiltin == 1:  # 2 is a dtype that another library registered, such as bfloat16
        return torch.from_numpy(array)
    bits = torch.from_numpy(array.view(_bits(np, array.dtype.itemsize)))
    return bits.view(getattr(torch, array.dtype.name))


def _bits(library: Any, size: int) -> Any:
    """The integer dtype, of torch or NumPy, that is as wide as a float of 1 or 2 bytes."""
    return library.uint8 if size == 1 else library.int16
