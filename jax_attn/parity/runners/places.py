"""Where in a module's own code something happens."""

import sys
from collections.abc import Iterable
from pathlib import Path

MOST = 6
"""More places than these are counted, not named."""

OURS = "jax_attn.parity."


class Places:
    """Lines of code, each once, in the order in which they were met."""

    def __init__(self) -> None:
        self._lines: dict[str, None] = {}

    def add(self, passing: Iterable[str]) -> None:
        """The line that runs now, below what belongs to the modules that `passing` names."""
        frame = sys._getframe(1)
        passing = (*passing, OURS)
        while frame.f_back is not None and f"{frame.f_globals.get('__name__', '')}.".startswith(passing):
            frame = frame.f_back
        code = frame.f_code
        name = code.co_qualname.rpartition("<locals>.")[2]
        self._lines.setdefault(f"{name} ({Path(code.co_filename).name}:{frame.f_lineno})")

    def __bool__(self) -> bool:
        return bool(self._lines)

    def __str__(self) -> str:
        lines = list(self._lines)
        more = f" and {len(lines) - MOST} more" if len(lines) > MOST else ""
        return ", ".join(lines[:MOST]) + more


def lifted(flax: Places | None, torch: Places | None) -> tuple[str, str] | None:
    """What a report says of the float32 that was lifted on either side; of a side that is None, nothing."""
    sides = [f"{side} in {places}" for side, places in (("flax", flax), ("torch", torch)) if places]
    if not sides:
        return None
    where = "" if flax is not None else " for the truth"
    return "float32 inside", f"computed in float64{where}: {'; '.join(sides)}"
