"""How a mutation gets into a torch module: what its forward pass calls is caught on the way, and changed.

A mutation is injected into torch whichever side is to be wrong: a pair differs either way. A injected module is a
copy whose class is derived from the original's, so names, weights and signature stay as they were.
"""

import copy
import dis
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import cache, lru_cache, wraps
from typing import Any
from unittest import mock

Change = Callable[["Forward", str, Any, tuple[Any, ...], dict[str, Any]], Any]
"""`change(forward, name, function, args, kwargs)`: what a torch function gives instead; PASS is: as ever."""

PASS = object()


@dataclass
class Hits:
    """What a injected mutation did, as pairs of words: (with the mutation, without), each once."""

    words: list[tuple[str, str]] = field(default_factory=list)

    def add(self, faulty: Any, right: Any) -> None:
        """It acted."""
        pair = str(faulty), str(right)
        if pair not in self.words:
            self.words.append(pair)

    def __deepcopy__(self, memo: Any) -> "Hits":
        return self  # copies of a module tell the same one


class Forward:
    """One forward pass of a module with a mutation.

    Attributes:
        module: the module.
        inputs: tensors that it was given.
        hits: takes note where the mutation hits.
        mode: catches the functions; entered again, it also catches what a caught one calls.
        state: for what a change has to remember.
    """

    def __init__(self, module: Any, inputs: Iterable[Any], hits: Hits, change: Change):
        self.module = module
        self.inputs = list(inputs)
        self.hits = hits
        self.change = change
        self.mode = _mode_class()(self._caught)
        self.state: dict[Any, Any] = {}

    def _caught(self, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = getattr(function, "__name__", "")
        value = self.change(self, name, function, args, kwargs)
        if value is not PASS:
            return value
        if name == "multi_head_attention_forward":
            with opened(self):
                return function(*args, **kwargs)
        return function(*args, **kwargs)


def opened(forward: Forward) -> AbstractContextManager[Any]:
    """Within it torch's own multi-head attention is run, not handed on, and its inside is caught."""
    import torch

    stack = ExitStack()
    stack.enter_context(mock.patch.object(torch.nn.functional, "has_torch_function", return_value=False))
    stack.enter_context(forward.mode)
    return stack


def watch(module: Any, change: Change, hits: Hits) -> None:
    """Let `change` see every torch function that the module's forward calls, submodules included."""
    kind = type(module)
    running: list[Any] = []  # a module that calls itself is one module

    @wraps(kind.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        import torch

        if running:
            return kind.forward(self, *args, **kwargs)
        running.append(self)
        try:
            given = [value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor)]
            with Forward(self, given, hits, change).mode:
                return kind.forward(self, *args, **kwargs)
        finally:
            running.clear()

    _derive(module, forward)


def wrap(module: Any, around: Callable[..., Any]) -> None:
    """`around(module, forward, *args, **kwargs)` in place of the module's forward."""
    kind = type(module)
    running: list[Any] = []

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

    _derive(module, forward)


def calling(names: tuple[str, ...], change: Callable[..., Any]) -> Callable[[Any, Hits], None]:
    """`change(forward, function, args, kwargs)` where one of these functions is called."""

    def caught(
        forward: Forward, name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        return change(forward, function, args, kwargs) if name in names else PASS

    return lambda module, hits: watch(module, caught, hits)


def _derive(module: Any, forward: Any) -> None:
    kind = type(module)
    inside = {"forward": forward, "__module__": kind.__module__, "__qualname__": kind.__qualname__}
    module.__class__ = type(kind.__name__, (kind,), inside)


def copied(module: Any, share_weights: bool = False) -> Any:
    """A copy of a torch module that may be changed; its weights are copied too, unless it shares them."""
    memo: dict[int, Any] = {}
    if share_weights:
        memo = {id(tensor): tensor for tensor in [*module.parameters(), *module.buffers()]}
    return copy.deepcopy(module, memo)


@cache
def _mode_class() -> Any:
    from torch.overrides import TorchFunctionMode

    class Caught(TorchFunctionMode):
        def __init__(self, caught: Callable[..., Any]):
            super().__init__()
            self.caught = caught

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return self.caught(func, args, kwargs or {})

    return Caught


# What a module has and calls, told without running it.


def functions_of(module: Any) -> set[str]:
    """Names that the methods of a module and of its submodules mention, and of the functions they hold."""
    names: set[str] = set()
    for child in module.modules():
        names |= _mentioned(type(child))
        for value in vars(child).values():
            value = getattr(value, "func", value)
            if callable(value):
                names.add(getattr(value, "__name__", type(value).__name__))
    return names


def uses(*names: str) -> Callable[[Any], bool]:
    """Whether a module calls one of these functions, or holds a layer that is called so."""
    return lambda module: bool(functions_of(module) & set(names))


@lru_cache(256)  # classes of injected modules are let go again
def _mentioned(kind: type) -> frozenset[str]:
    import torch

    names = {kind.__name__}
    for base in kind.__mro__:
        if base in (object, torch.nn.Module):
            continue
        for method in vars(base).values():
            names |= _names_of(method, set())
    return frozenset(names)


def _names_of(function: Any, seen: set[int]) -> set[str]:
    """The names in a function's code, and in that of the functions it calls, as far as torch's own."""
    code = getattr(function, "__code__", None)
    if code is None or id(function) in seen or len(seen) > 50:
        return set()
    seen.add(id(function))
    names = set(_names_in(code))
    around = getattr(function, "__globals__", {})
    for name in _globals_in(code):
        called = around.get(name)
        if str(getattr(called, "__module__", "torch")).partition(".")[0] != "torch":
            names |= _names_of(called, seen)
    return names


def _globals_in(code: Any) -> set[str]:
    return {part.argval for part in dis.get_instructions(code) if part.opname == "LOAD_GLOBAL"}


def _names_in(code: Any) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if hasattr(constant, "co_names"):
            yield from _names_in(constant)


def is_attention(module: Any) -> bool:
    """Whether there is attention in a module."""
    names = functions_of(module)
    softmax = bool(names & {"softmax", "Softmax"})
    return bool(names & {"scaled_dot_product_attention", "MultiheadAttention"}) or (
        softmax and bool(names & {"mT", "transpose", "einsum", "matmul", "bmm"})
    )
