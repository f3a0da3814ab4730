"""Processes that work for a command: they end with it, and one that dies is told in a line."""

import os
import signal
import sys
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
        with _quiet():
            executor = ProcessPoolExecutor(processes, SPAWN, _begin, (prepare, *given))
        with executor as pool:
            others = set(active_children())
            try:
                with _quiet():
                    for _ in range(processes):
                        pool.submit(int)  # each starts one
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


@contextmanager
def _quiet() -> Generator[None]:
    """What is started within says nothing when the command is interrupted, and ends with it.

    Ctrl-C goes to all of its processes, and the one that puts away what they leave would tell of it.
    """
    sys.warnoptions.append("ignore:resource_tracker")
    blocked = {signal.SIGINT} if hasattr(signal, "pthread_sigmask") else set()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked) if blocked else set()
    try:
        yield
    finally:
        sys.warnoptions.remove("ignore:resource_tracker")
        if blocked:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin(prepare: Callable[..., None], *given: Any) -> None:
    Thread(target=_end_with_parent, daemon=True).start()
    prepare(*given)


def _end_with_parent() -> None:
    """Wait for the parent to end, however it does: a worker whose parent was killed would wait for ever."""
    parent = parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
