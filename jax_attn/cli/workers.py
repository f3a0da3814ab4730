"""Processes that work for a command: they end with it, and one that dies is told in a line."""

import os
from collections.abc import Callable, Generator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import wait
from threading import Thread
from typing import Any

# A forked process cannot use the threads that JAX and torch have started.
SPAWN = get_context("spawn")


@contextmanager
def workers(processes: int, prepare: Callable[..., None], *given: Any) -> Generator[ProcessPoolExecutor]:
    """Yield a pool of processes, each of which first calls `prepare(*given)`.

    Who leaves it with an error, or is interrupted, waits for nothing: what has begun is ended, the rest is
    not begun.

    Raises:
        ChildProcessError: one of them died.
    """
    # NumPy's threads wait for one another by spinning. They are made as it is imported, which precedes `prepare`.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        with ProcessPoolExecutor(processes, SPAWN, _begin, (prepare, *given)) as pool:
            others = set(active_children())
            try:
                yield pool
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                for child in set(active_children()) - others:
                    child.terminate()
                raise
    except BrokenProcessPool:
        raise ChildProcessError(
            "a worker process was killed, most likely for want of memory: each needs about a gigabyte. "
            "Prove fewer at a time, by name; a few are proved without workers"
        ) from None


def _begin(prepare: Callable[..., None], *given: Any) -> None:
    Thread(target=_end_with_parent, daemon=True).start()
    prepare(*given)


def _end_with_parent() -> None:
    """Wait for the parent to end, however it does: a worker whose parent was killed would wait for ever."""
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
