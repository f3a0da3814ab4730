"""Names the operations of a traced program by the submodule that computes them.

While a function is traced, the `__call__` of each submodule stands in a `jax.named_scope` that carries the module's
path. Scopes survive what NNX and JAX do to a program: jit, grad, remat, scan. A module that is merged meanwhile
(`nnx.merge`), or called, carries the paths of its submodules as static attributes, which copies of it keep.
"""

import re
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import jax
from flax import nnx
from flax.errors import TraceContextError

_PATH = "_scope_path"
_SCOPE = re.compile(r"module:([^/()]*)")

_active = threading.local()
_one_at_a_time = threading.RLock()  # the wrappers are the whole process's
_traced_while = jax.make_user_context(None)


def module_of(name_stack: str) -> str | None:
    """The path of the innermost module that a name stack, or an `op_name` of compiled code, tells; or None."""
    found = _SCOPE.findall(name_stack)
    return found[-1] if found else None


@contextmanager
def module_scopes() -> Generator[None]:
    """Within it, what is traced is named by module; what was traced before is traced anew."""
    with _one_at_a_time, ExitStack() as patches:
        patches.enter_context(_traced_while(object()))
        patches.enter_context(mock.patch.object(nnx, "merge", _marking(nnx.merge)))
        before = getattr(_active, "patches", None)
        _active.patches, _active.wrapped = patches, set()
        try:
            yield
        finally:
            _active.patches = before


def mark(module: nnx.Module) -> None:
    """Let each submodule carry its path, and its calls be named by it; only within `module_scopes`."""
    for path, submodule in submodules(module):
        try:
            setattr(submodule, _PATH, path)
        except TraceContextError:  # it belongs to another trace, which has to stay as it is
            continue
        _wrap(type(submodule))


def submodules(module: nnx.Module) -> Iterator[tuple[str, nnx.Module]]:
    """The first path of each submodule, and the submodule; the module itself has the empty path."""
    seen: set[int] = set()

    def visit(node: Any, path: str) -> Iterator[tuple[str, nnx.Module]]:
        if id(node) in seen:
            return
        seen.add(id(node))
        if isinstance(node, nnx.Module):
            yield path, node
        for name, child in _children(node):
            yield from visit(child, f"{path}.{name}" if path else str(name))

    return visit(module, "")


def _children(node: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(node, nnx.List | list | tuple):
        yield from enumerate(node)
    elif isinstance(node, dict):
        yield from node.items()
    elif isinstance(node, nnx.Module):
        yield from ((name, child) for name, child in vars(node).items() if not name.startswith("_"))


def _marking(merge: Callable[..., Any]) -> Callable[..., Any]:
    def merged(*args: Any, **kwargs: Any) -> Any:
        value = merge(*args, **kwargs)
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, nnx.Module) and not hasattr(each, _PATH):
                mark(each)
        return value

    return merged


def _wrap(kind: type) -> None:
    """Let the calls of a class stand in scopes; a call that it inherits is its own meanwhile."""
    call: Any = next((vars(base)["__call__"] for base in kind.__mro__ if "__call__" in vars(base)), None)
    if call is None or kind in _active.wrapped:
        return
    _active.wrapped.add(kind)

    def scoped(self: Any, *args: Any, **kwargs: Any) -> Any:
        path = vars(self).get(_PATH)
        if path is None or type(self) is not kind:  # of a class below, which stands in its own scope
            return call(self, *args, **kwargs)
        with jax.named_scope(f"module:{path}"):
            return call(self, *args, **kwargs)

    _active.patches.enter_context(mock.patch.object(kind, "__call__", scoped))
