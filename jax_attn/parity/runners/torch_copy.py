"""A copy of a torch module to run in its place: whatever it holds, and nothing of it the original's."""

import copy
import copyreg
import functools
import io
import types
import weakref
from _thread import LockType, RLock, allocate_lock
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from jax_attn.parity.text import described

MOST_DEPTH = 8

# What deepcopy refuses and no number depends on: locks are made anew, the others are shared.
REDUCED: dict[type, Callable[[Any], Any]] = {
    LockType: lambda lock: (allocate_lock, ()),
    RLock: lambda lock: (RLock, ()),
    types.ModuleType: lambda module: "",
    io.TextIOWrapper: lambda file: "",
    io.BufferedWriter: lambda file: "",
    io.BufferedReader: lambda file: "",
}


def copied(module: Any, *, share_weights: bool = False) -> Any:
    """A deep copy. What was computed and kept keeps its value; functions and weak references follow the copy.

    Args:
        module: any torch module.
        share_weights: whether the copy holds the original's own parameters and buffers.

    Raises:
        ValueError: it holds something that cannot be copied; the message names the attribute.
    """
    import torch

    real = torch.Tensor.__deepcopy__

    def detached(tensor: Any, memo: dict[int, Any]) -> Any:
        """Torch copies leaves alone: what a call has left behind is copied as a value."""
        if (tensor.is_leaf and not tensor.is_inference()) or id(tensor) in memo:
            return real(tensor, memo)
        memo[id(tensor)] = tensor.detach().clone()
        return memo[id(tensor)]

    shared = [*module.parameters(), *module.buffers()] if share_weights else []
    memo: dict[int, Any] = {id(tensor): tensor for tensor in shared}
    with (
        mock.patch.object(torch.Tensor, "__deepcopy__", detached),
        mock.patch.dict(copyreg.dispatch_table, REDUCED),
    ):
        try:
            theirs = copy.deepcopy(module, memo)
        except Exception as error:
            path, value = _culprit(module, (), set())
            name = ".".join((type(module).__name__, *path))
            raise ValueError(
                f"{name} is a {type(value).__name__}, which cannot be copied "
                f"({described(error, 120)}): set it to None for the "
                "comparison, or give its class a __deepcopy__"
            ) from error
        if not share_weights:
            _hook(module, theirs, memo)
        for owner in theirs.modules():
            for name, value in list(vars(owner).items()):
                vars(owner)[name] = _linked(value, memo, 0)
            if type(owner).__name__ == "OptimizedModule":  # its compiled code is the original's
                vars(owner)["forward"] = owner._orig_mod.__call__
    return theirs


def _hook(module: Any, theirs: Any, memo: dict[int, Any]) -> None:
    """Let the copy's parameters change their gradients as the original's do: a copied tensor has no hooks."""
    for parameter, other in zip(module.parameters(), theirs.parameters(), strict=True):
        for hook in (parameter._backward_hooks or {}).values() if other.requires_grad else ():
            other.register_hook(_linked(hook, memo, 0))


def _linked(value: Any, memo: dict[int, Any], depth: int) -> Any:
    """The value, with the functions and weak references in it led from the original to the copy."""
    if depth > MOST_DEPTH:
        return value
    if isinstance(value, types.FunctionType):
        return _function(value, memo, depth)
    if isinstance(value, types.MethodType):
        function, owner = _linked(value.__func__, memo, depth + 1), memo.get(id(value.__self__))
        owner = value.__self__ if owner is None else owner
        same = function is value.__func__ and owner is value.__self__
        return value if same else types.MethodType(function, owner)
    if isinstance(value, weakref.ref):
        target = memo.get(id(value()))
        return value if target is None else weakref.ref(target)
    if type(value) is functools.partial:
        function = _linked(value.func, memo, depth + 1)
        return value if function is value.func else functools.partial(function, *value.args, **value.keywords)
    if isinstance(value, dict):
        for key, child in list(value.items()):
            if (other := _linked(child, memo, depth + 1)) is not child:
                value[key] = other
    elif type(value) is list:
        value[:] = [_linked(child, memo, depth + 1) for child in value]
    elif type(value) is tuple:
        linked = tuple(_linked(child, memo, depth + 1) for child in value)
        return value if all(a is b for a, b in zip(linked, value, strict=True)) else linked
    return value


def _function(function: types.FunctionType, memo: dict[int, Any], depth: int) -> types.FunctionType:
    """The function, or one like it that has closed over what belongs to the copy."""
    cells = function.__closure__ or ()
    found = [_closed_over(cell, memo, depth) for cell in cells]
    if all(a is b for a, b in zip(found, cells, strict=True)):
        return function
    other = types.FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, tuple(found)
    )
    other.__kwdefaults__ = function.__kwdefaults__
    other.__dict__.update(function.__dict__)
    return other


def _closed_over(cell: Any, memo: dict[int, Any], depth: int) -> Any:
    try:
        value = cell.cell_contents
        other = _linked(value, memo, depth + 1) if callable(value) and id(value) not in memo else value
        if other is value:
            other = copy.deepcopy(value, memo)
    except Exception:  # an empty cell, or something of the function's own that cannot be copied
        return cell
    return cell if other is value else types.CellType(other)


def _culprit(value: Any, path: tuple[str, ...], seen: set[int]) -> tuple[tuple[str, ...], Any]:
    """The innermost thing that cannot be copied, and the way to it."""
    seen.add(id(value))
    for name, child in _children(value):
        if id(child) in seen:
            continue
        try:
            copy.deepcopy(child)
        except Exception:
            return _culprit(child, (*path, name), seen)
    return path, value


def _children(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((str(key), child) for key, child in value.items())
    elif isinstance(value, list | tuple):
        yield from ((str(index), child) for index, child in enumerate(value))
    else:
        held = getattr(value, "__dict__", {})
        for name in ("_modules", "_parameters", "_buffers"):
            yield from held.get(name, {}).items()
        yield from ((name, child) for name, child in held.items() if name != "_modules")
