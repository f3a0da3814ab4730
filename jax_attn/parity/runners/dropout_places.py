"""Which submodule draws a dropout mask: the innermost pair of modules around the call.

Found at the moment of the call among the methods that run, so that no class has to be wrapped, and whatever
transformation the call goes through. Modules of Flax, which are copied, carry their place with them.
"""

import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

from flax import nnx

_PLACE = "_parity_dropout_place"


def mark_places(module: nnx.Module, pairs: Mapping[str, str]) -> None:
    """Let each submodule carry the torch path of the innermost pair that it is in.

    Args:
        module: a copy that may be changed.
        pairs: torch's path of each Flax path that has a counterpart.
    """
    visited = set()

    def visit(node: Any, path: str, place: str) -> None:
        place = pairs.get(path, place)
        if isinstance(node, nnx.Module):
            if id(node) in visited and path not in pairs:
                return
            visited.add(id(node))
            setattr(node, _PLACE, place)
        for name, child in children_of(node):
            visit(child, f"{path}.{name}" if path else name, place)

    visit(module, "", "")


def innermost(path: str, pairs: Collection[str]) -> str:
    """The path, or the nearest above it, that is one of `pairs`; "" where there is none."""
    while path and path not in pairs:
        path = path.rpartition(".")[0]
    return path


def place_in_torch(paths: Mapping[int, str]) -> str:
    """The path of the innermost module that runs now; `paths` are those of the modules by id."""
    return _running(lambda owner: paths.get(id(owner)))


def place_in_flax() -> str:
    """The place that the innermost module that runs now carries."""
    return _running(lambda owner: vars(owner).get(_PLACE) if isinstance(owner, nnx.Module) else None)


def _running(find: Callable[[Any], str | None]) -> str:
    """What `find` has for the first argument of the innermost function for which it has anything."""
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_argcount and (found := find(frame.f_locals.get(code.co_varnames[0]))) is not None:
            return found
        frame = frame.f_back
    return ""


def children_of(node: Any) -> list[tuple[str, Any]]:
    """The modules and containers that a node of a Flax module holds, by name."""
    items: Any = node.items() if isinstance(node, dict) else None
    if items is None:
        items = enumerate(node) if isinstance(node, list | tuple) else vars(node).items()
    return [
        (str(name), child)
        for name, child in items
        if isinstance(child, nnx.Module | list | tuple | dict) and not str(name).startswith("_pytree")
    ]
