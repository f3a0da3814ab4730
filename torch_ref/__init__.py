"""The PyTorch twins of `jax_attn`: same path, same class, same arguments, plain code. Never imports jax."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch_ref import from_scratch, models, nn

__all__ = ["from_scratch", "models", "nn"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module(f"{__name__}.{name}")


def __dir__() -> list[str]:
    return __all__
