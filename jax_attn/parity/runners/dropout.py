"""The same dropout masks on both sides.

No two frameworks draw the same numbers. So torch runs first with every call of dropout intercepted, and its
masks kept on a tape; then the tape is played to Flax. A mask belongs to the innermost pair of modules around
its call (see `dropout_places`); within one pair the order of the calls decides, and so it does where no pair is
known. Two modules that call dropout on other shapes, more or less often, or with another rate, differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np


class DropoutMismatch(Exception):
    """The two sides call dropout differently."""


class TooFewDraws(DropoutMismatch):
    """Flax drew fewer masks than torch."""


@dataclass(frozen=True)
class Draw:
    """A mask's rate, and the torch path of the submodule that draws it."""

    rate: float
    place: str = ""


class Tape:
    """The masks of one forward pass in the order of the calls, True = keep, and what is known of each draw.

    `elsewhere` names what else drew random numbers, of which there is no record. With `uniform`, all numbers
    that torch draws between 0 and 1 are this one, and are not named.
    """

    def __init__(self, seed: int = 0, uniform: float | None = None):
        self.seed = seed
        self.uniform = uniform
        self.masks: list[np.ndarray] = []
        self.elsewhere: list[str] = []
        self._draws: list[Draw] = []

    def rewind(self) -> None:
        """Forget what was drawn: a run that failed is tried in another way."""
        self.masks.clear()
        self._draws.clear()
        self.elsewhere.clear()

    @property
    def draws(self) -> tuple[Draw, ...]:
        """The rate and the place of each mask."""
        return tuple(self._draws)

    def in_order(self) -> "Tape":
        """The same masks of no place: the order of the calls alone decides."""
        other = Tape(self.seed, self.uniform)
        other.masks, other.elsewhere = self.masks, self.elsewhere
        other._draws = [replace(draw, place="") for draw in self._draws]
        return other

    def draw(self, shape: Sequence[int], rate: float, place: str = "") -> np.ndarray:
        """The next mask."""
        generator = np.random.default_rng([self.seed, 2, len(self.masks)])
        mask = generator.random(tuple(shape)) >= rate
        self.masks.append(mask)
        self._draws.append(Draw(rate, place))
        return mask
