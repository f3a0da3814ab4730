"""Batches by the number of their step.

`batches[i]` is a function of the seed and `i`, and of nothing else: where a training stands is the number of
its next step, on any number of hosts, and a host takes its rows of the same global batch.
"""

import sys
from collections.abc import Iterator
from functools import lru_cache, partial
from typing import Any, Protocol

import numpy as np

from jax_attn.functional.checks import require_positive
from jax_attn.training.data.examples import IGNORED, Examples

EVERY_ROW = slice(None)
GROUP = 16  # so many batches are drawn together and sorted by length, before they are cut


class GlobalBatches(Protocol):
    """Batches with random access, of `batch_size` rows; `steps` of them, or without end where that is None."""

    batch_size: int
    steps: int | None

    def rows(self, step: int) -> np.ndarray:
        """The rows of the examples in the global batch; fewer than `batch_size` where the last one is filled up."""
        ...

    def part(self, step: int, rows: slice) -> dict[str, np.ndarray]:
        """These rows of the global batch `step`, in the shapes that it has."""
        ...

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        return self.part(step, EVERY_ROW)


class ShuffledBatches(GlobalBatches):
    """Batches without end: each example once an epoch, in another order every time.

    Where examples have lengths, a batch holds those of about one length. An epoch ends where its examples do,
    in the middle of a batch too.
    """

    steps = None

    def __init__(self, examples: Examples, batch_size: int, seed: int):
        require_positive("batch_size", batch_size)
        self.examples, self.batch_size, self.seed = examples, batch_size, seed
        self._epoch = lru_cache(maxsize=2)(
            partial(examples.epoch, seed)
        )  # all batches of an epoch ask for it
        self.group = 1 if examples.lengths is None else max(1, min(GROUP, len(examples) // batch_size))

    def rows(self, step: int) -> np.ndarray:
        """`(b,)` rows of the examples in the global batch."""
        if step < 0:
            raise IndexError(f"steps count from 0, got {step}")
        group, number = divmod(step, self.group)
        drawn = self._drawn(group * self.group * self.batch_size, self.group * self.batch_size)
        if self.group > 1:
            drawn = drawn[np.argsort(self.examples.lengths[drawn], kind="stable")]  # ty: ignore
            number = np.random.default_rng([self.seed, group, 2]).permutation(self.group)[number]
        return drawn.reshape(-1, self.batch_size)[number]

    def _drawn(self, start: int, count: int) -> np.ndarray:
        """`count` rows from `start` on of one epoch after the other."""
        epoch, start = divmod(start, len(self.examples))
        found: list[np.ndarray] = []
        while count:
            found.append(self._epoch(epoch)[start : start + count])
            epoch, start, count = epoch + 1, 0, count - len(found[-1])
        return np.concatenate(found)

    def part(self, step: int, rows: slice) -> dict[str, np.ndarray]:
        """These rows of the global batch `step`, in the shapes that it has."""
        among = self.rows(step)
        return self.examples.collate(among[rows], among)


class OrderedBatches(GlobalBatches):
    """Each example once, those of about one length together; `len(batches)` of them.

    The last batch is filled up with rows that are repeated, where every label is IGNORED.
    """

    def __init__(self, examples: Examples, batch_size: int):
        require_positive("batch_size", batch_size)
        self.examples, self.batch_size = examples, batch_size
        self._order = examples.in_order()
        self.steps = len(self)

    def __len__(self) -> int:
        return -(-len(self._order) // self.batch_size)

    def rows(self, step: int) -> np.ndarray:
        """The rows of the examples in the global batch, without those that fill it up."""
        if not 0 <= step < len(self):
            raise IndexError(f"steps go from 0 to {len(self) - 1}, got {step}")
        return self._order[step * self.batch_size :][: self.batch_size]

    def part(self, step: int, rows: slice) -> dict[str, np.ndarray]:
        """These rows of the global batch `step`, in the shapes that it has."""
        real = self.rows(step)
        among = np.resize(real, self.batch_size)
        batch = self.examples.collate(among[rows], among)
        if "labels" in batch:
            batch["labels"] = batch["labels"].copy()
            batch["labels"][np.arange(self.batch_size)[rows] >= len(real)] = IGNORED
        return batch


def host_rows(batch_size: int, process_index: int, process_count: int) -> slice:
    """The rows of a global batch that a host takes, in the order of the hosts.

    Raises:
        ValueError: the hosts do not divide the batch.
    """
    if batch_size % process_count:
        raise ValueError(f"--batch-size must be divisible by the {process_count} processes, got {batch_size}")
    rows = batch_size // process_count
    return slice(process_index * rows, (process_index + 1) * rows)


def iterate(
    batches: Any,
    start: int = 0,
    stop: int | None = None,
    *,
    rows: slice = EVERY_ROW,
    threads: int = 1,
    ahead: int = 4,
) -> Iterator[dict[str, np.ndarray]]:
    """Batches from step `start` on, made ahead of time by Grain's threads.

    Args:
        batches: with random access; anything that gives a batch for a number, unless only some `rows` are wanted.
        start: the first step; after a restart, the number of steps done.
        stop: the step before which it ends; None is the end of the batches, or never.
        rows: the rows of each that are wanted, as `host_rows` gives them.
        threads: that make batches.
        ahead: how many batches are made before they are asked for.
    """
    import grain

    def make(step: Any) -> dict[str, np.ndarray]:
        return batches[int(step)] if rows == EVERY_ROW else batches.part(int(step), rows)

    if stop is None:
        stop = getattr(batches, "steps", None)
    steps: Any = grain.MapDataset.range(start, sys.maxsize if stop is None else stop).map(make)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=ahead)
    return iter(steps.to_iter_dataset(options))
