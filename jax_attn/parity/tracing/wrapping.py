"""Catches every call of an NNX module's submodules, whatever transformation they are called through.

`__call__` of the classes in question is wrapped meanwhile. Each module carries its path as a static
attribute, which survives the splitting and merging of NNX's transformations. Loops are unrolled and nothing
is rematerialised, so that a layer of a scanned stack is called as one of a list is.
"""

import threading
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from types import MethodType
from typing import Any
from unittest import mock

import jax
from flax import nnx

from jax_attn.parity.runners.dropout_places import children_of
from jax_attn.parity.runners.unrolled import unrolled_scan
from jax_attn.parity.text import joined
from jax_attn.parity.tracing.observers import Observer, Unseen
from jax_attn.parity.tracing.recording import CallRecord, Recording, argument_names

_MARK = "_parity_path"
_ORIGINAL = "_parity_original"


@dataclass(frozen=True)
class ModulePath:
    """Where a module is; in a scanned stack of `layers`, the number of the layer stands between two parts."""

    start: str
    end: str = ""
    layers: int = 0

    def numbered(self, layer: int) -> str:
        """The path of one layer's module, as it would be in a list of layers."""
        return joined(self.start, str(layer), self.end, by=".")

    @property
    def all(self) -> list[str]:
        """The path, or that of each layer's."""
        return [self.numbered(layer) for layer in range(self.layers)] if self.layers else [self.start]

    @property
    def plain(self) -> str:
        """The path among the module's attributes, as `Slot.path` has it."""
        return joined(self.start, self.end, by=".")

    def child(self, name: str, stack: int = 0) -> "ModulePath":
        """The path of an attribute; `stack` is the number of layers that it stacks."""
        if self.layers:
            return ModulePath(self.start, joined(self.end, name, by="."), self.layers)
        return ModulePath(joined(self.start, name, by="."), layers=stack)


class InsideJit(BaseException):
    """A submodule is called while it is traced, and there are no numbers to be seen."""


class ModuleRun:
    """One recorded run, to which the wrapped calls report.

    Args:
        recording: takes the calls.
        observer: what happens at each.
        refuse_tracers: whether `InsideJit` is raised where there is nothing to be seen.
    """

    def __init__(self, recording: Recording, observer: Observer, refuse_tracers: bool):
        self.recording = recording
        self.observer = observer
        self.refuse_tracers = refuse_tracers
        self.turns: list[tuple[int, int]] = []  # (length, turn) of the loops that run
        self._times: Counter[ModulePath] = Counter()

    def call(
        self, function: Callable[..., Any], module: nnx.Module, place: ModulePath, args: Any, kwargs: Any
    ) -> Any:
        """Call a submodule, and record it."""
        recording, path = self.recording, self._path(place)
        if recording.is_running(path):
            return function(module, *args, **kwargs)
        call = recording.begin(path, type(module).__name__, _names(type(module)))
        try:
            args, kwargs = self._unless_traced(call, self.observer.given, (args, kwargs), args, kwargs)
            value = function(module, *args, **kwargs)
            call.finished = True
            return self._unless_traced(call, self.observer.returned, value, value)
        except Exception as error:
            recording.raised(error)
            raise
        finally:
            recording.end()

    def _path(self, place: ModulePath) -> str:
        """A module's path; in a stack, by the layer that runs, or by the turn of the loop over them."""
        if not place.layers:
            return place.start
        stack = f"{place.start}." if place.start else ""
        for call in reversed(self.recording.running if place.end else []):
            number = call.path.removeprefix(stack).split(".")[0]
            if call.path.startswith(stack) and number.isdigit():
                return place.numbered(int(number))
        for length, turn in reversed(self.turns):
            if length == place.layers:
                return place.numbered(turn)
        self._times[place] += 1
        return place.numbered((self._times[place] - 1) % place.layers)

    def _unless_traced(self, call: CallRecord, look: Callable[..., Any], instead: Any, *values: Any) -> Any:
        try:
            return look(call, *values)
        except Unseen:
            if self.refuse_tracers:
                raise InsideJit from None
            call.skeleton, call.problem = None, "it is called inside a transformation, such as vmap"
            return instead


def walk(module: nnx.Module) -> Iterator[tuple[nnx.Module, list[ModulePath]]]:
    """Each submodule that can be called, in order of definition, with all its paths."""
    found: dict[int, tuple[nnx.Module, list[ModulePath]]] = {}

    def visit(node: Any, path: ModulePath, above: frozenset[int]) -> None:
        if id(node) in above:
            return
        if isinstance(node, nnx.Module) and _is_callable(type(node)):
            found.setdefault(id(node), (node, []))[1].append(path)
        stacked = getattr(node, "stacked", ())
        for name, child in children_of(node):
            stack = _layers(child) if name in stacked else 0
            visit(child, path.child(name, stack), above | {id(node)})

    visit(module, ModulePath(""), frozenset())
    return iter(found.values())


def first_paths(module: nnx.Module) -> dict[str, ModulePath]:
    """The first path of each submodule, by every one of its paths."""
    return {path.plain: paths[0] for _, paths in walk(module) for path in paths}


def mark(module: nnx.Module, first: Mapping[str, ModulePath]) -> None:
    """Let each submodule carry its path: of several the `first`, which a copy does not know.

    NNX makes copies with their attributes in the order of the alphabet.
    """
    for submodule, paths in walk(module):
        setattr(submodule, _MARK, first.get(paths[0].plain, paths[0]))


_active = threading.local()
_one_at_a_time = threading.Lock()  # the wrappers are the whole process's


@contextmanager
def wrapped(classes: Collection[type], run: ModuleRun) -> Generator[None]:
    """Within it, the calls of marked modules of these classes go through `run`."""
    with _one_at_a_time, ExitStack() as patches:
        for kind in classes:
            patches.enter_context(mock.patch.object(kind, "__call__", _wrapper(kind)))
        patches.enter_context(mock.patch.object(jax.lax, "scan", _scan))
        for name in ("checkpoint", "remat"):
            patches.enter_context(mock.patch.object(jax, name, _keep_all(getattr(jax, name))))
        _active.run = run
        try:
            yield
        finally:
            del _active.run


def _wrapper(kind: type) -> Callable[..., Any]:
    function: Any = next(vars(base)["__call__"] for base in kind.__mro__ if "__call__" in vars(base))
    function = getattr(function, _ORIGINAL, function)  # a base class that is wrapped already

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        run, place = getattr(_active, "run", None), vars(self).get(_MARK)
        if run is None or place is None:
            return function(self, *args, **kwargs)
        return run.call(function, self, place, args, kwargs)

    setattr(call, _ORIGINAL, function)
    return call


@cache
def _names(kind: type) -> tuple[str, ...]:
    function: Any = getattr(kind.__call__, _ORIGINAL, kind.__call__)
    return argument_names(MethodType(function, kind))  # bound to anything: what comes first is the module


@contextmanager
def _turn(turns: int, turn: int) -> Generator[None]:
    """The run knows which turn of a loop it is in."""
    _active.run.turns.append((turns, turn))
    yield
    _active.run.turns.pop()


_scan = unrolled_scan(lambda: hasattr(_active, "run"), _turn)


def _keep_all(real: Callable[..., Any]) -> Callable[..., Any]:
    def checkpoint(fun: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        return fun if hasattr(_active, "run") else real(fun, **options)

    return checkpoint


def _layers(stack: Any) -> int:
    """The size of the leading axis that a stack's leaves share."""
    return next((leaf.shape[0] for leaf in jax.tree.leaves(nnx.state(stack)) if leaf.shape), 0)


def _is_callable(kind: type) -> bool:
    return any("__call__" in vars(base) for base in kind.__mro__)
