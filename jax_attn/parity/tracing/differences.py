"""Two tensors of the two sides, or all tensors of a call: how far apart, and where."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import permutations
from typing import Any

import numpy as np

from jax_attn.parity.judging.errors import severity, worst_error
from jax_attn.parity.runners.trees import Mismatch, Skeleton, kind_of, names_of, pair
from jax_attn.parity.tracing.recording import CallRecord, is_float


@dataclass(frozen=True)
class Difference:
    """How far two tensors are apart.

    Attributes:
        name: of the tensor.
        error: `max|a - b| / max(1, max|b|)`; NaN where there is no number.
        bound: up to which they agree.
        index: where they are furthest apart.
        flax: the value there.
        torch: the value there.
        detail: what else there is to say.
    """

    name: str
    error: float
    bound: float
    index: tuple[int, ...] = ()
    flax: float = math.nan
    torch: float = math.nan
    detail: str = ""

    @property
    def agrees(self) -> bool:
        """Whether the error is within the bound; NaN is not."""
        return self.error <= self.bound

    def __str__(self) -> str:
        place = f" at [{', '.join(map(str, self.index))}]" if self.index else ""
        values = "" if math.isnan(self.error) else f"{place}: flax {self.flax:.6g}, torch {self.torch:.6g}"
        text = f"error {self.error:.3g}{values}" if values else self.detail
        return f"{text} ({self.detail})" if values and self.detail else text

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Difference":
        """The inverse of `plain`."""
        read: dict[str, Any] = {**data, "index": tuple(data["index"])}
        for name in ("error", "bound", "flax", "torch"):
            read[name] = float(data[name])
        return cls(**read)


@dataclass(frozen=True)
class Layout:
    """How torch's tensor becomes one of Flax's shape: its axes in another order, or another grouping."""

    shape: tuple[int, ...]
    axes: tuple[int, ...] | None = None

    def of(self, torch: np.ndarray) -> np.ndarray:
        """Torch's tensor as Flax lays it out."""
        return torch.reshape(self.shape) if self.axes is None else torch.transpose(self.axes)

    @property
    def note(self) -> str:
        """What is said of it in a report."""
        if self.axes is None:
            return f"torch's tensor reshaped to {self.shape}"
        same = self.axes == tuple(range(len(self.axes)))
        return "" if same else f"torch's axes in the order {self.axes}"


def measure(
    name: str, flax: np.ndarray, torch: np.ndarray, bound: float, scale: float = 0.0
) -> tuple[Difference, Layout | None]:
    """How far two tensors are apart, in the layout that brings them closest, and that layout.

    Where the shapes are equal there is but one layout: what agrees in another order of the axes, as the
    transpose of a square matrix does, differs; the detail says that it agrees in that order.
    `scale` is the size of all gradients, beside which a gradient of zero is judged.
    """
    kinds = kind_of(flax.dtype), kind_of(torch.dtype)
    if kinds[0] != kinds[1]:
        return Difference(name, math.nan, bound, detail=f"{kinds[0]} in flax, {kinds[1]} in torch"), None
    bound = bound if kinds[0] in _INEXACT else 0.0
    best: tuple[Difference, Layout] | None = None
    for layout in _layouts(flax.shape, torch.shape):
        found = _apart(name, flax, layout.of(torch), bound, scale, layout.note)
        if best is None or found.agrees or found.error < best[0].error:
            best = found, layout
        if found.agrees:
            break
    if best is None:
        detail = f"shape {flax.shape} in flax, {torch.shape} in torch"
        return Difference(name, math.nan, bound, detail=detail), None
    if not best[0].agrees and flax.shape == torch.shape:
        for axes in _orders(flax.shape, torch.shape):
            if _apart(name, flax, torch.transpose(axes), bound, scale, "").agrees:
                return replace(best[0], detail=f"it agrees with torch's axes in the order {axes}"), best[1]
    return best


def worst(differences: Iterable[Difference]) -> Difference | None:
    """The one furthest beyond its bound."""
    return max(differences, key=lambda each: severity(each.error, each.bound), default=None)


@dataclass(frozen=True)
class Matched:
    """Two tensors that are compared, by their names or positions on each side.

    `sure` is False where they are paired by order alone, and may mean different things.
    """

    flax: Any
    torch: Any
    layout: Layout | None
    difference: Difference
    sure: bool = True


def match_outputs(flax: CallRecord, torch: CallRecord, bound: float) -> tuple[list[Matched], str]:
    """The outputs of two calls that can be compared, and a word on what cannot."""
    for side, call in (("flax", flax), ("torch", torch)):
        if call.skeleton is None:
            return [], f"the output of {side} is not known: {call.problem}"
    names, order, mismatch = _paired(torch.skeleton, flax.skeleton)
    positions = list(enumerate(order))
    note = ""
    if mismatch:
        numbers = range(min(len(flax.outputs), len(torch.outputs)))
        positions = [(i, i) for i in numbers if _alike(flax.outputs[i], torch.outputs[i])]
        if len(flax.outputs) == len(torch.outputs) == 1:
            positions = [(0, 0)]
        note = "" if len(positions) == len(names) else mismatch
    matched = []
    for theirs, ours in positions:
        difference, layout = measure(names[theirs], flax.outputs[ours], torch.outputs[theirs], bound)
        matched.append(Matched(ours, theirs, layout, difference))
    return matched, note


def match_inputs(
    flax: CallRecord, torch: CallRecord, bound: float
) -> tuple[list[Matched], list[tuple[str, str]]]:
    """The inputs of two calls that can be compared; and (name, side) of those that only this side was given,
    though both know the name.
    """
    pairs = [(name, name) for name in flax.inputs if name in torch.inputs]
    ours, theirs = ([n for n in _distinct(call) if (n, n) not in pairs] for call in (flax, torch))
    for name in ours:
        alike = [other for other in theirs if _alike(flax.inputs[name], torch.inputs[other])]
        alike.sort(key=lambda other: not _agree(flax.inputs[name], torch.inputs[other], bound))
        if alike:
            pairs.append((name, alike[0]))
            theirs.remove(alike[0])
    matched = []
    for name, other in pairs:
        difference, layout = measure(name, flax.inputs[name], torch.inputs[other], bound)
        sure = name == other or flax.inputs[name].dtype != bool
        matched.append(Matched(name, other, layout, difference, sure))
    alone = []
    for given, lacking, word in ((torch, flax, "torch"), (flax, torch, "flax")):
        for name, array in given.inputs.items():
            if np.ndim(array) and name in lacking.parameters and not _has(lacking, name):
                alone.append((name, word))
    return matched, alone


@cache
def _paired(torch: Skeleton, flax: Skeleton) -> tuple[list[str], list[int], str]:
    """Names of torch's tensors, the position of Flax's for each, or why there is none."""
    try:
        return names_of(torch), pair(torch, flax), ""
    except Mismatch as mismatch:
        return names_of(torch), [], str(mismatch)


_INEXACT = ("float", "complex")


def _has(call: CallRecord, name: str) -> bool:
    return any(other == name or other.startswith(f"{name}.") for other in call.inputs)


def _distinct(call: CallRecord) -> list[str]:
    """The inputs that are arrays, each once."""
    first: dict[int, str] = {}
    for name, array in call.inputs.items():
        if np.ndim(array) or is_float(array):
            first.setdefault(array.__array_interface__["data"][0], name)
    return list(first.values())


def _alike(flax: np.ndarray, torch: np.ndarray) -> bool:
    same_kind = kind_of(flax.dtype) == kind_of(torch.dtype)
    return same_kind and next(_layouts(flax.shape, torch.shape), None) is not None


def _agree(flax: np.ndarray, torch: np.ndarray, bound: float) -> bool:
    return measure("", flax, torch, bound)[0].agrees


def _layouts(flax: tuple[int, ...], torch: tuple[int, ...]) -> Iterator[Layout]:
    """The layouts that have Flax's shape, the plainest first."""
    if flax == torch:
        yield Layout(flax, tuple(range(len(flax))))
        return
    orders = list(_orders(flax, torch))
    yield from (Layout(flax, axes) for axes in orders)
    if not orders and math.prod(flax) == math.prod(torch):
        yield Layout(flax)


def _orders(flax: tuple[int, ...], torch: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """The orders of torch's axes, other than its own, that have Flax's shape."""
    if sorted(flax) == sorted(torch) and len(torch) <= 4:
        own = tuple(range(len(torch)))
        for axes in permutations(own):
            if axes != own and tuple(torch[axis] for axis in axes) == flax:
                yield axes


def _apart(name: str, a: np.ndarray, b: np.ndarray, bound: float, scale: float, note: str) -> Difference:
    if not a.size:
        return Difference(name, 0.0, bound, detail="it is empty")
    error, index = worst_error(a, b, scale)
    detail = note
    if math.isnan(error):
        counts = [(side, int(np.isnan(x).sum())) for side, x in (("flax", a), ("torch", b))]
        detail = "NaN in " + " and ".join(f"{n} of {a.size} values of {side}" for side, n in counts if n)
    return Difference(name, error, bound, index, float(a[index].real), float(b[index].real), detail)
