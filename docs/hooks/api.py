"""The API: a page a door, with every name of its `__all__`, as directives of mkdocstrings."""

import inspect
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any

# In the order of the navigation. Rooms of `nn` are sections of its page.
DOORS = (
    "jax_attn",
    "jax_attn.functional",
    "jax_attn.nn",
    "jax_attn.from_scratch",
    "jax_attn.models",
    "jax_attn.models.generation",
    "jax_attn.weights",
    "jax_attn.optim",
    "jax_attn.parity",
    "jax_attn.training",
    "jax_attn.training.data",
    "jax_attn.visualize",
    "jax_attn.catalogue",
    "torch_ref",
    "torch_ref.nn",
    "torch_ref.from_scratch",
    "torch_ref.models",
)
SECTIONS = {
    "attention": "Attention",
    "layers": "Layers",
    "positions": "Positions",
    "primitives": "Primitives",
}


def address(door: str) -> str:
    """Where the page of a door lies, in docs/."""
    return f"api/{door}.md"


def page(door: str) -> str:
    """The Markdown of a door's page: who it is for, what the door says of itself, and each of its names."""
    module = import_module(door)
    head = [f"# `{door}`", f"For those who import from `{door}`.", inspect.getdoc(module) or ""]
    elsewhere = [_link(door, name) for name in module.__all__ if home(door, name) != door]
    if elsewhere:
        head.append("\n".join(elsewhere))
    return "\n\n".join([*head, *_entries(door)]) + "\n"


def home(door: str, name: str) -> str:
    """The door whose page describes a name: of all doors that hand it on, the last behind this one."""
    value = getattr(import_module(door), name)
    if isinstance(value, ModuleType) and value.__name__ in DOORS:
        return value.__name__
    behind = [other for other in DOORS if other.startswith(f"{door}.")]
    return next((other for other in behind if vars(import_module(other)).get(name) is value), door)


def undocumented(doors: Sequence[str] = DOORS) -> list[str]:
    """The public names without a docstring of their own, constants among them, as the source has it."""
    import griffe  # what mkdocstrings reads the source with

    packages = {name: griffe.load(name, resolve_aliases=True) for name in {d.split(".")[0] for d in doors}}
    public = [(door, name) for door in doors for name in import_module(door).__all__]
    return [f"{door}.{name}" for door, name in public if not _docstring(packages, _path(door, name))]


def _path(door: str, name: str) -> str:
    """Where the source is read. A name that hides the file it comes from is looked up in that file."""
    value = getattr(import_module(door), name)
    file = f"{door}.{name}"
    return f"{file}.{name}" if file in sys.modules and sys.modules[file] is not value else file


def _docstring(packages: dict[str, Any], path: str) -> str:
    package, rest = path.split(".", 1)
    documented = packages[package][rest].docstring
    return documented.value.strip() if documented else ""


def _entries(door: str) -> Iterator[str]:
    module = import_module(door)
    names = [name for name in module.__all__ if home(door, name) == door]
    if not door.endswith(".nn"):
        yield from (_directive(door, name, level=2) for name in names)
        return
    for room, title in SECTIONS.items():
        behind = vars(import_module(f"{door}.{room}"))
        inside = [name for name in names if behind.get(name) is getattr(module, name)]
        if inside:
            yield f"## {title}"
            yield from (_directive(door, name, level=3) for name in inside)


def _directive(door: str, name: str, level: int) -> str:
    return f"::: {_path(door, name)}\n    options:\n      heading_level: {level}"


def _link(door: str, name: str) -> str:
    there = home(door, name)
    value = getattr(import_module(door), name)
    first = (inspect.getdoc(value) or "").splitlines()[0]
    if isinstance(value, ModuleType) and there == value.__name__:
        return f"- [`{name}`]({there}.md): {first}"
    return f"- [`{name}`][{_path(there, name)}]: {first}"
