"""A module as a description, from which it is built in either framework."""

from collections.abc import Mapping
from importlib import import_module
from inspect import signature
from typing import Any


class Part:
    """A class and its arguments, which may be parts too: a model written down once for both frameworks.

    >>> block = Part(EncoderLayer, embed_dim=64, attention=Part(MultiHeadAttention, embed_dim=64, num_heads=4))
    >>> block.build("jax_attn", rngs=nnx.Rngs(0))  # and block.build("torch_ref") is its twin

    Args:
        kind: the Flax class, or where it is: `module:Class`, relative to `jax_attn` and to `torch_ref`.
        arguments: the constructor arguments of the class, the same on both sides. What is built is built anew each
            time, so nothing is shared between two models, or between two places of one.
    """

    def __init__(self, kind: type | str, /, **arguments: Any):
        self.where = kind if isinstance(kind, str) else _where(kind)
        self.arguments = arguments

    def build(self, package: str, **own: Any) -> Any:
        """The module of `package`; `own` are arguments that only this framework takes, where the class does."""
        kind = locate(package, self.where)
        taken = {name: value for name, value in own.items() if name in signature(kind.__init__).parameters}
        return kind(**built(self.arguments, package, **own), **taken)


def locate(package: str, where: str) -> Any:
    """The class that `module:Class` names in `jax_attn` or `torch_ref`."""
    module, name = where.split(":")
    return getattr(import_module(f"{package}.{module}"), name)


def built(arguments: Mapping[str, Any], package: str, **own: Any) -> dict[str, Any]:
    """The arguments with the parts among them built, and those in lists."""

    def build(value: Any) -> Any:
        if isinstance(value, list):
            return [build(each) for each in value]
        return value.build(package, **own) if isinstance(value, Part) else value

    return {name: build(value) for name, value in arguments.items()}


def _where(kind: type) -> str:
    return f"{kind.__module__.partition('.')[2]}:{kind.__qualname__}"
