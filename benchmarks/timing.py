"""Interleaved timing: what disturbs the machine disturbs every contender alike."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import jax

PAUSE = 0.02  # seconds: torch's idle threads spin for some milliseconds before they leave a core to others


@dataclass(frozen=True)
class Timing:
    """The seconds that one contender took, round by round."""

    name: str
    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Median of the rounds, in seconds."""
        return statistics.median(self.seconds)

    def speed_against(self, other: "Timing") -> float:
        """How many times as fast as `other` this is: the median of the rounds' own ratios."""
        return statistics.median(b / a for a, b in zip(self.seconds, other.seconds, strict=True))


def interleave(
    contenders: Mapping[str, Callable[[], object]], *, rounds: int = 7, warmups: int = 2
) -> dict[str, Timing]:
    """Time each contender once a round, the first of a round changing from round to round.

    Args:
        contenders: what to time, by name. A call has ended when its JAX arrays are ready.
        rounds: how many times each is timed.
        warmups: untimed calls of each beforehand; the first one compiles.

    Returns:
        a `Timing` for each contender, in the order given.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(warmups):
        for call in contenders.values():
            jax.block_until_ready(call())
    for names in _rotations(list(contenders), rounds):
        for name in names:
            time.sleep(PAUSE)
            start = time.perf_counter()
            jax.block_until_ready(contenders[name]())
            seconds[name].append(time.perf_counter() - start)
    return {name: Timing(name, tuple(taken)) for name, taken in seconds.items()}


def _rotations(names: list[str], rounds: int) -> Iterator[list[str]]:
    for index in range(rounds):
        first = index % len(names)
        yield names[first:] + names[:first]
