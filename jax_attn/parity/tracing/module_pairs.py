"""Which submodule of Flax corresponds to which of torch, by the weights that they hold.

Two modules correspond if the weights below them are the same, as `load_state_dict` and its `names` have it.
What holds no weights is paired by its name below a pair, or by its class and order.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flax import nnx

from jax_attn.parity.text import joined
from jax_attn.parity.tracing.recording_torch import called_modules
from jax_attn.parity.tracing.wrapping import walk
from jax_attn.weights.rules import Names, slots

ModuleNames = Mapping[str, str | None]
"""Flax path -> torch path, or None for "with nothing"; a `*` stands for one part of a path on both sides."""


@dataclass(frozen=True)
class Entry:
    """A module by one of its paths.

    Attributes:
        path: one of its paths.
        first: its first path, by which it goes.
        kind: name of its class.
        keys: torch keys of the weights below it.
    """

    path: str
    first: str
    kind: str
    keys: frozenset[str]


@dataclass
class ModulePairs:
    """Modules that correspond, by path. A shared module has one path, its first.

    Attributes:
        pairs: (path in flax, path in torch).
        flax_kinds: class of every module of Flax.
        torch_kinds: class of every module of torch.
        groups: a number for each `("flax", path)` and `("torch", path)`: those of one number are the same
            module, though one side may hold it as several.
    """

    pairs: list[tuple[str, str]]
    flax_kinds: dict[str, str]
    torch_kinds: dict[str, str]
    groups: dict[tuple[str, str], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for flax, torch in self.pairs:
            ends = ("flax", flax), ("torch", torch)
            number = min((self.groups[end] for end in ends if end in self.groups), default=len(self.groups))
            old = {self.groups[end] for end in ends if end in self.groups}
            self.groups.update({end: number for end in self.groups if self.groups[end] in old})
            self.groups.update(dict.fromkeys(ends, number))

    @property
    def unpaired(self) -> list[tuple[str, str]]:
        """(side, path) of every module that corresponds to none."""
        both = [("flax", path) for path in self.flax_kinds] + [("torch", path) for path in self.torch_kinds]
        return [end for end in both if end not in self.groups]


def pair_modules(
    flax: nnx.Module, torch: Any, names: Names = (), modules: ModuleNames | None = None
) -> ModulePairs:
    """Pair the submodules of two modules, running neither.

    Args:
        flax: any NNX module.
        torch: any torch module, or a recorded one.
        names: the renaming rules of `load_state_dict`.
        modules: pairs given by hand; they come first.

    Raises:
        ValueError: `modules` names a module that is not there.
    """
    ours, theirs = _entries(flax, torch, names)
    matching = Matching(ours, theirs, names)
    matching.for_certain(modules)
    matching.by_class()
    pairs = dict.fromkeys((ours.first, theirs.first) for ours, theirs in matching.pairs)
    return ModulePairs(list(pairs), {e.first: e.kind for e in ours}, {e.first: e.kind for e in theirs})


def certain_pairs(
    flax: nnx.Module, torch: Any, names: Names = (), modules: ModuleNames | None = None
) -> dict[str, str]:
    """Torch's path of each Flax path that is paired by hand, by its weights or by its name.

    All paths of a shared module are in it. Class and order alone make no pair here.
    """
    matching = Matching(*_entries(flax, torch, names), names)
    matching.for_certain(modules)
    return {ours.path: other.first for ours, other in matching.pairs}


def _entries(flax: nnx.Module, torch: Any, names: Names) -> tuple[list[Entry], list[Entry]]:
    """All paths of the submodules of either side."""
    shared = {place.key for slot in slots(flax, names) for place in slot.places} & torch.state_dict().keys()
    theirs = [
        Entry(path, first, kind, frozenset(key for key in shared if not path or key.startswith(f"{path}.")))
        for first, paths, kind in called_modules(torch)
        for path in paths
    ]
    return list(_flax_entries(flax, names, shared)), theirs


def _flax_entries(module: nnx.Module, names: Names, shared: set[str]) -> Iterator[Entry]:
    """The Flax modules that are called, each with the weights below it, under torch's keys."""
    table = slots(module, names)
    whole: dict[str, int] = {}
    for slot in table:
        for place in slot.places:
            whole[place.key] = whole.get(place.key, 0) + 1
    for submodule, places in walk(module):
        for place in places:
            below = [slot for slot in table if not place.plain or slot.path.startswith(f"{place.plain}.")]
            for layer, path in enumerate(place.all):
                found: dict[str, int] = {}
                for slot in below:
                    for each in [slot.places[layer]] if place.layers and slot.stacked else slot.places:
                        found[each.key] = found.get(each.key, 0) + 1
                # A part of a tensor that torch keeps fused is no weight of its own.
                keys = frozenset(key for key in found if key in shared and found[key] == whole[key])
                yield Entry(path, places[0].all[layer], type(submodule).__name__, keys)


class Matching:
    """Modules that are paired so far, and those still waiting."""

    def __init__(self, flax: Sequence[Entry], torch: Sequence[Entry], names: Names):
        self.flax = {entry.path: entry for entry in flax}
        self.torch = {entry.path: entry for entry in torch}
        self.names = names
        self.pairs: list[tuple[Entry, Entry]] = []
        self.torch_of: dict[str, str] = {}

    def take(self, flax: str, torch: str) -> None:
        """Pair two paths."""
        self.pairs.append((self.flax.pop(flax), self.torch.pop(torch)))
        self.torch_of[flax] = torch

    def for_certain(self, modules: ModuleNames | None) -> None:
        """Pair by hand, by weights and by name."""
        self.by_hand(modules or {})
        self.by_weights()
        self.by_name()

    def by_hand(self, modules: ModuleNames) -> None:
        """The pairs that were given."""
        for ours, theirs in modules.items():
            pattern = re.compile(re.escape(ours).replace(r"\*", r"([^.]+)"))
            found = [match for path in list(self.flax) if (match := pattern.fullmatch(path))]
            if not found:
                raise ValueError(f"modules names {ours!r}, but flax has no such submodule")
            for match in found:
                if theirs is None:
                    del self.flax[match[0]]
                    continue
                parts = iter(match.groups())
                path = re.sub(r"\*", lambda _, parts=parts: next(parts, "*"), theirs)
                if path not in self.torch:
                    raise ValueError(
                        f"modules pairs {match[0]!r} with {path!r}, but torch has no such submodule"
                    )
                self.take(match[0], path)

    def by_weights(self) -> None:
        """Modules with the same weights below them; of several, one inside another, the like-named first."""
        if "" in self.flax and "" in self.torch:
            self.take("", "")
        for keys in dict.fromkeys(entry.keys for entry in self.flax.values() if entry.keys):
            ours = [path for path, entry in self.flax.items() if entry.keys == keys]
            theirs = [path for path, entry in self.torch.items() if entry.keys == keys]
            for path in ours:
                alike = [other for other in theirs if other in (path, self._renamed(path))]
                if alike:
                    self.take(path, alike[0])
                    theirs.remove(alike[0])
            left = [path for path in ours if path in self.flax]
            for path, other in zip(reversed(left), reversed(theirs), strict=False):
                self.take(path, other)

    def by_name(self) -> None:
        """Modules without weights: by name below the innermost pair around them."""
        for path in self._bare(self.flax):
            around = self._around(path, self.torch_of)
            theirs = self._bare(self.torch)
            last = path.rpartition(".")[2]
            inside = self.torch_of[around] if around is not None else ""
            below = path.removeprefix(around or "").lstrip(".")
            for guess in (self._renamed(path), joined(inside, below, by="."), joined(inside, last, by=".")):
                if guess in theirs:
                    self.take(path, guess)
                    break

    def by_class(self) -> None:
        """Modules without weights, below the innermost pair around them: by class and order."""
        inverse = {torch: flax for flax, torch in self.torch_of.items()}
        for path in self._bare(self.flax):
            around, kind = self._around(path, self.torch_of), self.flax[path].kind.lower()
            alike = [
                [
                    p
                    for p in self._bare(side)
                    if side[p].kind.lower() == kind and self._around(p, known) == ends
                ]
                for side, known, ends in (
                    (self.flax, self.torch_of, around),
                    (self.torch, inverse, None if around is None else self.torch_of[around]),
                )
            ]
            if len(alike[0]) == len(alike[1]):
                self.take(path, alike[1][0])

    def _renamed(self, path: str) -> str:
        key = f"{path}.weight"
        for pattern, replacement in self.names:
            key = re.sub(pattern, replacement, key)
        return key.removesuffix(".weight")

    @staticmethod
    def _bare(side: dict[str, Entry]) -> list[str]:
        return [path for path, entry in side.items() if not entry.keys]

    @staticmethod
    def _around(path: str, known: Mapping[str, str]) -> str | None:
        """The innermost of `known` that holds `path`."""
        while path:
            path = path.rpartition(".")[0]
            if path in known:
                return path
        return None
