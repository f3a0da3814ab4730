"""What one side gave for one call, in NumPy."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Buffers:
    """The state beside the parameters, by torch key and in torch's layout.

    Attributes:
        before: what it was.
        after: what the call left.
    """

    before: dict[str, np.ndarray] = field(default_factory=dict)
    after: dict[str, np.ndarray] = field(default_factory=dict)

    def changed(self, key: str) -> bool:
        """Whether the call changed it."""
        if key not in self.before or key not in self.after:
            return key in self.after
        before, after = self.before[key], self.after[key]
        if before is after:
            return False
        return (
            before.shape != after.shape
            or not ((before == after) | ((before != before) & (after != after))).all()
        )


@dataclass
class Run:
    """Outputs in torch's order, gradients of parameters by torch key and in torch's layout, and of inputs.

    `buffers` is None where they were not looked at.
    """

    outputs: list[np.ndarray]
    gradients: dict[str, np.ndarray] = field(default_factory=dict)
    input_gradients: list[np.ndarray] = field(default_factory=list)
    buffers: Buffers | None = None

    def equals(self, other: "Run") -> bool:
        """Whether both hold the very same outputs and gradients."""
        lists = (self.outputs, other.outputs), (self.input_gradients, other.input_gradients)
        by_key = (list(self.gradients.values()), list(other.gradients.values()))
        return all(_same(ours, theirs) for ours, theirs in (*lists, by_key))


def frozen_on_both(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Of the gradients of a parameter that torch has frozen, taken all the same: whether Flax stops it."""
    return not ours.any() and bool(theirs.any())


def _same(ours: list[np.ndarray], theirs: list[np.ndarray]) -> bool:
    return len(ours) == len(theirs) and all(map(np.array_equal, ours, theirs))
