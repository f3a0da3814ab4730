"""How a mutation gets into a torch module: what its forward pass calls is caught on the way, and changed.

A mutation is injected into torch whichever side is to be wrong: a pair differs either way. An injected module is a
copy whose class is derived from the original's, so names, weights and signature stay as they were.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial, wraps
from typing import Any
from unittest import mock

from jax_attn.parity.runners.torch_functions import intercepting

Change = Callable[["TorchCall"], Any]
"""What a torch function gives instead; `PASS` is: as ever."""

PASS = object()

# What is asked of a tensor, by hooks too, without computing with it.
LOOKED_AT = ("__get__", "__len__", "size", "dim", "detach", "cpu", "numpy")


@dataclass
class Hits:
    """What an injected mutation did, as pairs of words: (with the mutation, without), each once."""

    words: list[tuple[str, str]] = field(default_factory=list)

    def add(self, wrong: Any, right: Any) -> None:
        """Take note that the mutation changed something."""
        pair = str(wrong), str(right)
        if pair not in self.words:
            self.words.append(pair)

    def __deepcopy__(self, memo: Any) -> "Hits":
        return self  # copies of a module report to the same one


class Forward:
    """One forward pass of a module with a mutation.

    Attributes:
        module: the module.
        hits: takes note where the mutation hits.
        mode: catches the functions; entered again, it also catches what a caught one calls.
        state: for what a change has to remember.
    """

    def __init__(self, module: Any, hits: Hits, change: Change):
        self.module = module
        self.hits = hits
        self.change = change
        self.mode = intercepting(self._caught)
        self.state: dict[Any, Any] = {}

    def _caught(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = TorchCall(self, getattr(function, "__name__", ""), function, args, kwargs)
        value = self.change(call)
        return call.run() if value is PASS else value


@dataclass(frozen=True)
class TorchCall:
    """A torch function, as a forward pass calls it."""

    forward: Forward
    name: str
    function: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def hits(self) -> Hits:
        """Takes note where the mutation hits."""
        return self.forward.hits

    @property
    def state(self) -> dict[Any, Any]:
        """What the change remembers of this forward pass."""
        return self.forward.state

    @property
    def values(self) -> list[Any]:
        """All arguments."""
        return [*self.args, *self.kwargs.values()]

    def named(self, *names: str) -> dict[str, Any]:
        """The arguments by name; `names` are those of the positional ones."""
        return {**dict(zip(names, self.args, strict=False)), **self.kwargs}

    def run(self) -> Any:
        """Call the function. Torch's own multi-head attention is run, not handed on, and its inside is caught."""
        if self.name != "multi_head_attention_forward":
            return self.function(*self.args, **self.kwargs)
        import torch

        opened = mock.patch.object(torch.nn.functional, "has_torch_function", return_value=False)
        with opened, self.forward.mode:
            return self.function(*self.args, **self.kwargs)


def watch(module: Any, change: Change, hits: Hits) -> None:
    """Let `change` see every torch function that the module's forward calls, submodules included."""

    def around(module: Any, forward: Any, *args: Any, **kwargs: Any) -> Any:
        with Forward(module, hits, change).mode:
            return forward(*args, **kwargs)

    wrap(module, around)


def watching(change: Change) -> Callable[[Any, Hits], None]:
    """Return the injector that lets `change` see every torch function."""
    return lambda module, hits: watch(module, change, hits)


def calling(names: tuple[str, ...], change: Change) -> Callable[[Any, Hits], None]:
    """Return the injector of `change` where one of these functions is called."""
    return watching(lambda call: change(call) if call.name in names else PASS)


def wrap(module: Any, around: Callable[..., Any]) -> None:
    """`around(module, forward, *args, **kwargs)` in place of the module's forward."""
    kind = type(module)
    running: list[Any] = []  # a module that calls itself is one module

    @wraps(kind.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            return kind.forward(self, *args, **kwargs)

        if running:
            return call(*args, **kwargs)
        running.append(self)
        try:
            return around(self, call, *args, **kwargs)
        finally:
            running.clear()

    inside = {"forward": forward, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    module.__class__ = type(kind.__name__, (kind,), inside)


def wrapping(
    chosen: Callable[[Any], Iterable[Any]], around: Callable[..., Any]
) -> Callable[[Any, Hits], None]:
    """Return the injector of `around(hits, module, forward, *args, **kwargs)` in each of the `chosen` modules."""

    def injector(module: Any, hits: Hits) -> None:
        for child in chosen(module):
            wrap(child, partial(around, hits))

    return injector
