"""What a diagnosis says: where two modules begin to differ, and why."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from jax_attn.parity import tolerances
from jax_attn.parity.diagnosing.lint_modules import SettingFinding
from jax_attn.parity.text import alike, count, plain, table
from jax_attn.parity.tracing.divergence import Divergence


@dataclass(frozen=True)
class Candidate:
    """A mutation that was tried as the cause.

    Attributes:
        mutation: its name in `mutations.MUTATIONS`; empty for a setting that was not tried, but read.
        summary: what it is.
        setting: what differs by it.
        flax: what Flax does, if this is the cause.
        torch: what torch does.
        error: the error that is left with it in torch, the larger of two draws; NaN where there is no number.
        explains: whether that is within the bound.
    """

    mutation: str
    summary: str
    setting: str
    flax: str
    torch: str
    error: float
    explains: bool

    def __str__(self) -> str:
        return f"{self.setting}: flax {self.flax}, torch {self.torch}"


# What brings the error down by less is no likely cause.
LIKELY = 1e-2

# What leaves so many times the least error is as good an explanation.
ALIKE = 10


def close(candidates: Sequence[Candidate], error: float) -> list[Candidate]:
    """The candidates that leave little of an error, the best and those that leave hardly more."""
    left = [c for c in candidates if c.error <= LIKELY * error]
    return [c for c in left if c.error <= ALIKE * min(c.error for c in left)]


@dataclass
class Diagnosis:
    """Where two modules begin to differ, and why.

    Attributes:
        certainty: "certain": one cause, and no other, leaves an error within the bound, on these inputs and
            weights and on others; "likely": several do, or it could not be run on others, or the error falls
            a hundredfold, or is one of rounding; "unknown"; or "no difference".
        cause: the likeliest; None if it is not known.
        divergence: where they begin to differ.
        error: the error there, without any repair.
        bound: the bound of that error.
        candidates: all that were tried, the best first.
        also: (path, error) of further modules that differ on torch's own inputs.
        notes: what else there is to say.
        lint: settings of paired modules that differ, found without running them.
        seconds: the time it took.
    """

    certainty: str
    cause: Candidate | None = None
    divergence: Divergence | None = None
    error: float = math.nan
    bound: float = tolerances.MODULE
    candidates: list[Candidate] = field(default_factory=list)
    also: list[tuple[str, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    lint: list[SettingFinding] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def likely(self) -> list[Candidate]:
        """The candidates that come into question."""
        good = [candidate for candidate in self.candidates if candidate.explains]
        near = close(self.candidates, self.error) if self.cause in self.candidates else []
        return good or near or ([self.cause] if self.cause else [])

    @property
    def tried(self) -> str:
        """All that was tried, as a table."""
        rows = [["mutation", "error left", "flax", "torch"]]
        rows += [[c.mutation, f"{c.error:.2g}", c.flax, c.torch] for c in self.candidates]
        return table(rows)

    def to_json(self) -> dict[str, Any]:
        """Everything, in the types of JSON."""
        return {
            "certainty": self.certainty,
            "cause": plain(self.cause),
            "error": plain(self.error),
            "bound": self.bound,
            "divergence": self.divergence and self.divergence.to_json(),
            "candidates": plain(self.candidates),
            "also": [{"path": path, "error": plain(error)} for path, error in self.also],
            "notes": self.notes,
            "lint": [{**vars(f), "flax": str(f.flax), "torch": str(f.torch)} for f in self.lint],
            "seconds": self.seconds,
        }

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        where = ""
        if self.divergence is not None:
            where = f" in {self.divergence.flax_path or 'the module itself'} ({self.divergence.flax_class})"
        if self.certainty == "no difference":
            yield "nothing differs on these inputs"
        elif self.divergence is None:
            yield "cause unknown: every submodule that was compared agrees"
        elif self.cause is None and self.divergence.kind == "raised":
            yield f"no mutation was tried{where}: what has no output cannot be compared"
        elif self.cause is None:
            yield f"cause unknown{where}: {count(len(self.candidates), 'mutation')} tried, none explains it"
        else:
            yield f"cause, {self.certainty}{where}: {self.cause}"
            left = f"; with the same in torch the error falls from {self.error:.2g} to {self.cause.error:.2g}"
            yield f"  {self.cause.summary}{left if self.cause.error < self.error else ''}"
        for other in dict.fromkeys(map(str, self.likely)):
            if other != str(self.cause):
                yield f"  or: {other}"
        for note in self.notes:
            yield f"  {note}"
        if self.also:
            shown = [f"{path or 'the module itself'} ({error:.2g})" for path, error in self.also[:MANY]]
            more = f", and {len(self.also) - MANY} more" if len(self.also) > MANY else ""
            yield f"  also on their own: {', '.join(shown)}{more}"
        for finding in alike(map(str, self.lint)):
            yield f"  settings differ: {finding}"


MANY = 6
"""More modules than these are counted, not named."""
