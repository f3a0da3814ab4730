"""One case of a benchmark: several contenders compute the same thing, and are timed side by side."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.contender import Contender
from benchmarks.memory import free_bytes, too_large
from benchmarks.timing import Timing, interleave

# Contenders that differ by more compute different things: `max|a - b| / max(1, max|b|)`.
AGREE = {"float32": 1e-3, "bfloat16": 5e-2, "float16": 5e-2}


@dataclass(frozen=True)
class Comparison:
    """What was measured of one case. The first contender is ours.

    Attributes:
        case: what was computed.
        timings: seconds of each contender, from one interleaved run.
        temporaries: bytes, of the contenders that XLA compiled.
        left_out: who could not take part, and why.
        facts: what the case is, in sizes and words.
    """

    case: str
    timings: Mapping[str, Timing]
    temporaries: Mapping[str, int] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ours(self) -> Timing:
        """Our own timing."""
        return next(iter(self.timings.values()))

    def speed_against(self, name: str) -> float:
        """How many times as fast as `name` we are."""
        return self.ours.speed_against(self.timings[name])

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON has it."""
        return {
            "case": self.case,
            **self.facts,
            "seconds": {name: timing.seconds for name, timing in self.timings.items()},
            "median": {name: timing.median for name, timing in self.timings.items()},
            "ours_is_times_as_fast": {name: self.speed_against(name) for name in self.timings},
            "temporary_bytes": dict(self.temporaries),
            "left_out": dict(self.left_out),
        }


def contest(
    case: str,
    contenders: Mapping[str, Contender],
    *,
    rounds: int,
    dtype: str = "float32",
    left_out: Mapping[str, str] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Comparison:
    """Make sure that all compute the same, and time them; who needs too much memory is left out unrun.

    Raises:
        RuntimeError: a contender's results are not those of the first.
    """
    left_out = {**(left_out or {}), **too_large(contenders, free_bytes())}
    contenders = {name: c for name, c in contenders.items() if name not in left_out}
    results = {name: c.results(c.run()) for name, c in contenders.items() if c.results is not None}
    agree(results, AGREE[dtype])
    del results
    timings = interleave({name: c.run for name, c in contenders.items()}, rounds=rounds)
    temporaries = {name: c.temporaries for name, c in contenders.items() if c.temporaries is not None}
    return Comparison(case, timings, temporaries, left_out, facts or {})


def agree(results: Mapping[str, Sequence[np.ndarray]], bound: float) -> None:
    """Refuse to compare the speed of contenders that compute different things."""
    if not results:
        return
    (first, expected), *others = results.items()
    for name, arrays in others:
        for ours, theirs in zip(expected, arrays, strict=True):
            error = float(np.abs(ours - theirs).max()) / max(1.0, float(np.abs(theirs).max()))
            if not error <= bound:
                raise RuntimeError(f"{name} differs from {first} by {error:.1e}, more than {bound:.0e}")


def geometric_mean(ratios: Sequence[float]) -> float:
    """The mean of ratios."""
    return math.exp(statistics.fmean(map(math.log, ratios)))
