"""Tries meshes, batches and remat, and ranks what fits by its tokens a second at best."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jax_attn.functional.logical_axes import MESH_AXES
from jax_attn.training.mesh import make_mesh
from jax_attn.training.sizing.compile import Sizing, compile_step
from jax_attn.training.sizing.memory import given_bytes
from jax_attn.training.sizing.step import AbstractStep
from jax_attn.training.sizing.target import Target

SPLITS = (
    2,
    4,
    8,
)  # into how many parts heads, or sequences, are cut: more sends more than computing can hide


@dataclass(frozen=True)
class Candidate:
    """One way to run a step.

    Attributes:
        mesh: sizes of the axes that have more than one.
        rows: of a batch, on all devices together.
        remat: whether layers are computed again in the backward pass.
    """

    mesh: dict[str, int]
    rows: int
    remat: bool

    def __str__(self) -> str:
        mesh = ",".join(f"{axis}={size}" for axis, size in self.mesh.items()) or "one device"
        return f"{mesh}, {self.rows:,} rows{', remat' if self.remat else ''}"


@dataclass(frozen=True)
class Tried:
    """What came of a candidate.

    Attributes:
        candidate: which.
        sizing: what it takes; None where it was not compiled.
        reason: why not.
    """

    candidate: Candidate
    sizing: Sizing | None
    reason: str = ""

    @property
    def fits(self) -> bool:
        """Whether it was compiled, and fits."""
        return self.sizing is not None and self.sizing.memory.fits

    @property
    def rank(self) -> tuple[bool, float]:
        """What fits first, the most tokens a second first."""
        return (not self.fits, -self.sizing.tokens_per_second if self.fits and self.sizing else 0.0)


def meshes(devices: int) -> Iterator[dict[str, int]]:
    """Ways to deal out a number of devices, the likely ones first: one axis, then two, then heads or sequences cut.

    >>> [*meshes(2)]
    [{'fsdp': 2}, {'data': 2}, {'tensor': 2}, {'context': 2}]
    """
    if devices == 1:
        yield {}
        return
    yield {"fsdp": devices}
    yield {"data": devices}
    splits = [n for n in SPLITS if devices % n == 0]
    for axis in ("tensor", "context", "data"):
        for n in splits:
            rest = devices // n
            if rest > 1:
                yield _in_order({axis: n, "fsdp": rest})
            elif axis != "data":
                yield {axis: n}


def candidates(
    ways: Sequence[dict[str, int]], rows: Sequence[int], remats: Sequence[bool]
) -> list[Candidate]:
    """Every mesh with every batch that it divides, small batches first, and with remat after without."""
    return [
        Candidate(mesh, count, remat)
        for mesh in ways
        for count in sorted(rows)
        for remat in sorted(remats)
        if count % (mesh.get("data", 1) * mesh.get("fsdp", 1)) == 0
    ]


def search(
    target: Target,
    found: Sequence[Candidate],
    step_of: Callable[[Candidate, Any], AbstractStep],
    tries: int,
    tell: Callable[[Tried], None] = lambda tried: None,
    size: Callable[[AbstractStep, Target], Sizing] = compile_step,
) -> list[Tried]:
    """Return what came of the candidates, the best first.

    Not compiled is what cannot fit by arithmetic or because less did not fit, and remat where it fits without.

    Args:
        target: the devices.
        found: the candidates, in the order in which they are tried.
        step_of: the step of a candidate on a mesh.
        tries: how many are compiled at most.
        tell: called with each as soon as it is known.
        size: compiles a step.
    """
    results: list[Tried] = []
    for candidate in found:
        if sum(each.sizing is not None for each in results) == tries:
            break
        reason = _needless(candidate, results)
        if reason:
            tried = Tried(candidate, None, reason)
        else:
            step = step_of(candidate, make_mesh(candidate.mesh or {"data": 1}, target.devices))
            given = given_bytes(step)
            least = sum(given.values()) + given["parameters"]  # the gradients
            if least > (target.chip.memory or math.inf):
                tried = Tried(candidate, None, "does not fit: state and gradients alone do not")
            else:
                tried = Tried(candidate, size(step, target))
        results.append(tried)
        tell(tried)
    return sorted(results, key=lambda tried: tried.rank)


def _needless(candidate: Candidate, results: Sequence[Tried]) -> str:
    """Why it need not be compiled, by what others have shown; empty if it has to be."""
    for tried in results:
        other = tried.candidate
        if other.mesh != candidate.mesh:
            continue
        if (
            not tried.fits
            and tried.reason != WITHOUT
            and other.rows <= candidate.rows
            and candidate.remat <= other.remat
        ):
            return f"does not fit: {other.rows:,} rows{' with remat' if other.remat else ''} do not"
        if tried.fits and other.rows == candidate.rows and candidate.remat and not other.remat:
            return WITHOUT
    return ""


WITHOUT = "fits without remat, which is faster"


def _in_order(mesh: dict[str, int]) -> dict[str, int]:
    return {axis: mesh[axis] for axis in MESH_AXES if axis in mesh}
