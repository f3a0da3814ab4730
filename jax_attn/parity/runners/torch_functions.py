"""torch's functions, seen on the way, and the dtype of what they make."""

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache
from typing import Any


def intercepting(instead: Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]) -> Any:
    """Return a context within which `instead(function, args, kwargs)` stands for every call of a torch function.

    What `instead` calls is not seen, unless the context is entered again there.
    """
    return _mode_class()(instead)


@cache
def _mode_class() -> Any:
    from torch.overrides import TorchFunctionMode

    class Intercepting(TorchFunctionMode):
        def __init__(self, instead: Callable[..., Any]):
            super().__init__()
            self.instead = instead

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return self.instead(func, args, kwargs or {})

    return Intercepting


@contextmanager
def default_dtype(dtype: Any) -> Generator[None]:
    """Within it, torch makes tensors of this dtype where none is given."""
    import torch

    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
