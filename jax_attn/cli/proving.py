"""Runs the proofs of `jax-attn verify`: every core works on them."""

import gc
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import jax

from jax_attn.catalogue import CATALOGUE, Twin
from jax_attn.cli.workers import workers
from jax_attn.parity.compare import compare_cases
from jax_attn.parity.report import Report
from jax_attn.parity.runners.quick import quick_flags

MOST_PROCESSES = 8  # each holds a gigabyte
WORTH_A_PROCESS = 4  # rows: a process takes as long to start as a few of them take

S = TypeVar("S")
T = TypeVar("T")


def processes_for(rows: int) -> int:
    """How many processes to prove that many rows with; below 2 it is done in this one."""
    if jax.default_backend() != "cpu":  # an accelerator is one process's own
        return 1
    return min(os.cpu_count() or 1, MOST_PROCESSES, rows // WORTH_A_PROCESS)


def proofs(twins: Sequence[Twin], lanes: Sequence[str]) -> Iterator[Report]:
    """The report of each twin, in order."""
    yield from spread(prove, [twin.name for twin in twins], lanes)


def spread(work: Callable[[S, Sequence[str]], T], items: Sequence[S], lanes: Sequence[str]) -> Iterator[T]:
    """`work(item, lanes)` of each item, in order, by as many processes as are worth it."""
    processes = processes_for(len(items))
    if processes < 2:
        yield from (work(item, lanes) for item in items)
        return
    with workers(processes, _many_small, quick_flags()) as pool:
        # From both ends, since the largest are last: so none is left that one process works on alone.
        turns = [i for pair in zip(range(len(items)), reversed(range(len(items))), strict=True) for i in pair]
        found = {i: pool.submit(work, items[i], lanes) for i in dict.fromkeys(turns)}
        yield from (found[i].result() for i in range(len(items)))


def prove(name: str, lanes: Sequence[str]) -> Report:
    """The report of one row of the catalogue."""
    twin = CATALOGUE[name]
    return compare_cases(
        twin.flax_to_load(),
        twin.torch(),
        twin.cases(),
        lanes=lanes,
        whole_model=twin.whole_model,
        title=twin.name,
    )


@contextmanager
def beside(work: Callable[[], T], at_once: bool) -> Generator[Callable[[], T]]:
    """Yields a function that gives what `work` gives; `at_once` begins it in a process of its own."""
    if not at_once:
        yield work
        return
    with workers(1, _surroundings, "") as pool:
        yield pool.submit(work).result


def _many_small(xla_flags: str) -> None:
    """Set up a process for many small modules. Programs stay: looking for garbage took a tenth of the time."""
    _surroundings(xla_flags)
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


def _surroundings(xla_flags: str) -> None:
    """Set up a process before it uses JAX and torch: one thread each, for the processes fill the cores."""
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {xla_flags}".strip()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch's threads wait for one another by spinning
