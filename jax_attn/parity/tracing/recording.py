"""What one side's submodules were given and gave, call by call, in NumPy."""

import inspect
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from flax import nnx

from jax_attn.parity.runners.trees import Leaf, Skeleton, keys_of, kind_of, take_apart
from jax_attn.parity.text import described

TOP = -1
"""The parent of a call that no submodule makes: the run itself."""


@dataclass
class CallRecord:
    """One call of one module.

    Attributes:
        index: its place among all calls, in the order in which they began.
        path: the module's path on its side; a layer of a scanned stack by its number, as in a list.
        kind: name of the module's class.
        number: how often the module was called before.
        parent: index of the call that made this one, or `TOP`.
        parameters: names of the arguments that the module takes.
        finished: whether the module returned.
        inputs: tensors and Python numbers that it was given, by argument name.
        skeleton: structure of the output; None until the call is over, or where `problem` says why.
        outputs: the tensors of the output, in the skeleton's order.
        problem: why the output is not known.
        gradients: of each input, by its name, what this call adds to the gradient; of each output, by its
            position, the gradient; absent is zero.
        unwatched: the inputs and outputs whose gradient cannot be seen, or is not asked for.
    """

    index: int
    path: str
    kind: str
    number: int
    parent: int
    parameters: tuple[str, ...] = ()
    finished: bool = False
    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    skeleton: Skeleton | None = None
    outputs: list[np.ndarray] = field(default_factory=list)
    problem: str = "it did not return"
    gradients: dict[str | int, np.ndarray] = field(default_factory=dict)
    unwatched: set[str | int] = field(default_factory=set)

    def returned(self, value: Any, as_array: Callable[[Any], np.ndarray]) -> None:
        """Keep the output."""
        try:
            self.skeleton, tensors = opened(value)
            self.outputs = [as_array(tensor) for tensor in tensors]
            self.problem = ""
        except TypeError as error:
            self.skeleton, self.problem = None, str(error)

    @property
    def reached(self) -> bool:
        """Whether a gradient came back to one of the outputs."""
        return any(isinstance(key, int) for key in self.gradients)

    def forget(self) -> None:
        """Let go of the numbers, and keep their shapes."""
        self.inputs = {name: _shape_only(array) for name, array in self.inputs.items()}
        self.outputs = [_shape_only(array) for array in self.outputs]


@dataclass(frozen=True)
class Failure:
    """An exception, and the innermost submodule that was running; the path is empty for the module itself."""

    side: str
    path: str
    kind: str
    message: str

    def __str__(self) -> str:
        return f"{self.side} raised {self.message} in {self.path or 'the module itself'} ({self.kind})"


class Recording:
    """The calls of one run, and what the run as a whole gave."""

    def __init__(self, side: str):
        self.side = side
        self.calls: list[CallRecord] = []
        self.whole = CallRecord(TOP, "", "", 0, TOP)
        self.parameter_gradients: dict[str, np.ndarray] = {}
        self.failure: Failure | None = None
        self._running: list[CallRecord] = []
        self._raised: tuple[Exception, CallRecord] | None = None
        self._times: Counter[str] = Counter()

    @property
    def running(self) -> list[CallRecord]:
        """The calls that run, the innermost last."""
        return self._running

    def is_running(self, path: str) -> bool:
        """Whether the innermost call that runs is of this module: it calls itself, or its parent's method."""
        return bool(self._running) and self._running[-1].path == path

    def begin(self, path: str, kind: str, parameters: tuple[str, ...]) -> CallRecord:
        """A call begins."""
        parent = self._running[-1].index if self._running else TOP
        record = CallRecord(len(self.calls), path, kind, self._times[path], parent, parameters)
        self._times[path] += 1
        self.calls.append(record)
        self._running.append(record)
        return record

    def end(self) -> None:
        """The innermost call is over."""
        self._running.pop()

    def raised(self, error: Exception) -> None:
        """The innermost call raises."""
        if self._raised is None or self._raised[0] is not error:
            self._raised = error, self._running[-1]

    def failed(self, error: Exception, kind: str) -> None:
        """The run raised; `kind` is the class of the whole module."""
        innermost = self._running[-1] if self._running else self._raised[1] if self._raised else None
        message = described(error)
        path, kind = (innermost.path, innermost.kind) if innermost else ("", kind)
        self.failure = self.failure or Failure(self.side, path, kind, message)
        self._running.clear()

    @contextmanager
    def failures_kept(self, kind: str) -> Generator[None]:
        """What is raised within it becomes `failure`."""
        try:
            yield
        except Exception as error:
            self.failed(error, kind)


def opened(value: Any) -> tuple[Skeleton, list[Any]]:
    """`take_apart`, with a short way for a lone tensor."""
    if hasattr(value, "dtype") and is_tensor(value):
        return Leaf(tuple(value.shape), kind_of(value.dtype)), [value]
    return take_apart(value)


def argument_names(method: Callable[..., Any]) -> tuple[str, ...]:
    """The names of a bound method's arguments; those of `*args` and `**kwargs` with their stars."""
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    try:
        parameters = inspect.signature(method).parameters.values()
    except (TypeError, ValueError):
        return ()
    return tuple(stars.get(p.kind, "") + p.name for p in parameters)


def named_tensors(
    parameters: tuple[str, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """The tensors and Python numbers among the arguments, by argument name and place within it."""
    leaves, _ = jax.tree_util.tree_flatten_with_path((args, dict(kwargs)), is_leaf=_is_opaque)
    return {_name(path, parameters): leaf for path, leaf in leaves if is_tensor(leaf)}


def replace_tensors(
    parameters: tuple[str, ...],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    change: Callable[[str, Any], Any],
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments with `change(name, tensor)` in place of each tensor."""

    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: change(_name(path, parameters), leaf) if is_tensor(leaf) else leaf,
        (args, dict(kwargs)),
        is_leaf=_is_opaque,
    )


def is_tensor(leaf: Any) -> bool:
    """Whether a leaf is a number or an array of numbers, of any framework; random keys are not."""
    if isinstance(leaf, bool | int | float | complex):
        return True
    return (
        hasattr(leaf, "shape")
        and hasattr(leaf, "dtype")
        and not isinstance(leaf, nnx.Pytree | nnx.Variable)
        and not str(leaf.dtype).startswith("key<")
    )


def is_float(array: Any) -> bool:
    """Whether an array of any framework is of real floating numbers."""
    return hasattr(array, "dtype") and kind_of(array.dtype) == "float"


def _shape_only(array: np.ndarray) -> np.ndarray:
    return np.broadcast_to(np.zeros((), array.dtype), array.shape)


def _is_opaque(node: Any) -> bool:
    return isinstance(node, nnx.Pytree | nnx.Variable)


def _name(path: tuple[Any, ...], parameters: tuple[str, ...]) -> str:
    kind, first, *rest = keys_of(path)
    if kind == 0:
        plain = [name for name in parameters if not name.startswith("**")]
        starred = next((i for i, name in enumerate(plain) if name.startswith("*")), len(plain))
        first = plain[first] if first < starred else f"input {first}"
    return ".".join(map(str, (first, *rest)))
