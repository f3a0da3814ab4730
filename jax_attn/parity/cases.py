"""One call of a module."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """One call of a module: positional and keyword arguments, arrays as NumPy (floats in float64).

    The arrays of `args` and `kwargs` are cast to each lane's dtype; everything else is passed as it is.
    `lanes` are the lanes to run it in; None is all. What tests the edge of a shape, and so needs a
    compilation of its own, is run in float64 alone: there an error shows, and rounding has nothing to add.
    """

    name: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    lanes: tuple[str, ...] | None = None

    def runs_in(self, lane: str) -> bool:
        """Whether the case is one of `lane`."""
        return self.lanes is None or lane in self.lanes
