"""float32 inside a torch module as float64, where the mathematics is compared and not the rounding.

While lifting, every function of torch gets in float64 what it is given in float32, and makes in float64 what
it is asked for in float32: a cast to float32 does nothing. 16 bits stay 16 bits.
"""

from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest import mock

from jax_attn.parity.runners.places import Places

INSIDE = ("torch.", "contextlib.")
"""Code that is not the module's own."""

CASTS = {"float": "double", "cfloat": "cdouble"}
"""Methods that are named after what they cast to."""

AS_IT_IS = ("__get__", "__set__")
"""Attributes of a tensor."""


@contextmanager
def lifted_torch(places: Places | None) -> Generator[None]:
    """Within it, torch computes in 64 bits what the code asks for in float32; None is: as it is.

    Args:
        places: takes note of where float32 is asked for.
    """
    import torch

    if places is None:
        yield
        return
    # `autograd.grad` would leave the mode, and with it what a checkpoint computes anew, or a backward by hand.
    stays = mock.patch.object(torch.autograd, "has_torch_function", return_value=False)
    with stays, _mode_class()(places):
        yield


def widened(tensor: Any) -> Any:
    """A float32 tensor in float64, a complex64 one in complex128; a number by itself as it is written."""
    wide = _wide_dtypes()[tensor.dtype]
    if tensor.ndim == 0 and not tensor.is_complex() and not tensor.requires_grad:
        return tensor.new_tensor(float(str(tensor.numpy(force=True)[()])), dtype=wide)
    return tensor.to(wide)


@cache
def _wide_dtypes() -> dict[Any, Any]:
    import torch

    return {torch.float32: torch.float64, torch.complex64: torch.complex128}


@cache
def _mode_class() -> Any:
    import torch
    from torch.overrides import TorchFunctionMode
    from torch.utils._pytree import tree_map

    dtypes = _wide_dtypes()
    plain, leaves = (int, float, bool, type(None)), (torch.Tensor, torch.dtype, str, type)
    spelled = {torch.FloatTensor: torch.DoubleTensor, "torch.FloatTensor": "torch.DoubleTensor"}

    class Lifted(TorchFunctionMode):
        def __init__(self, places: Places):
            super().__init__()
            self.places = places

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name, kwargs = getattr(func, "__name__", ""), kwargs or {}
            bits = name == "view" and any(isinstance(value, torch.dtype) for value in args)
            if name in AS_IT_IS or bits:
                return func(*args, **kwargs)
            # What is written to stays the tensor it is.
            kept = 1 if name == "__setitem__" or (name.endswith("_") and not name.endswith("__")) else 0
            out = {"out": kwargs.pop("out")} if "out" in kwargs else {}
            args, kwargs = args[:kept] + self._lifted(args[kept:]), self._lifted(kwargs)
            if name in CASTS:
                self.places.add(INSIDE)
                return getattr(args[0], CASTS[name])(*args[1:], **kwargs)
            return func(*args, **kwargs, **out)

        def _lifted(self, value: Any) -> Any:
            """The arguments of a call, lifted. Every call passes here: `tree_map` took half of a module's time."""
            kind = type(value)
            if kind in plain:
                return value
            if kind is tuple or kind is list:
                return kind([self._lifted(each) for each in value])
            if kind is dict:
                return {name: self._lifted(each) for name, each in value.items()}
            return self._leaf(value) if isinstance(value, leaves) else tree_map(self._leaf, value)

        def _leaf(self, value: Any) -> Any:
            if isinstance(value, torch.Tensor):
                return widened(value) if value.dtype in dtypes else value
            known = dtypes if isinstance(value, torch.dtype) else spelled
            if isinstance(value, torch.dtype | str | type) and value in known:
                self.places.add(INSIDE)
                return known[value]
            return value

    return Lifted
