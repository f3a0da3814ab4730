"""Worker processes end with their command, and one that dies is told in a line."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool

import pytest

from jax_attn.cli.workers import workers

COMMAND = """
import os, time
from jax_attn.cli.workers import workers
with workers(2, len, "") as pool:
    work = pool.submit(time.sleep, 600)
    print(pool.submit(os.getpid).result(), flush=True)
"""


def ended(process: int) -> bool:
    """Whether it is gone, or what is left of it waits to be looked at."""
    try:
        with open(f"/proc/{process}/stat") as file:
            return file.read().rpartition(") ")[2][0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.slow
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="it is seen in /proc")
def test_workers_end_with_a_command_that_is_killed():
    command = subprocess.Popen([sys.executable, "-c", COMMAND], stdout=subprocess.PIPE, text=True)
    assert command.stdout is not None
    worker = int(command.stdout.readline())
    with open(f"/proc/{command.pid}/task/{command.pid}/children") as file:
        children = [worker, *map(int, file.read().split())]
    command.kill()
    command.communicate()
    before = time.monotonic()
    while not all(map(ended, children)):
        assert time.monotonic() - before < 30, children
        time.sleep(0.01)


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="there is nothing to keep it off with")
def test_workers_leave_an_interrupt_to_their_command():
    with workers(1, len, "") as pool:
        worker = pool.submit(os.getpid).result()
        os.kill(worker, signal.SIGINT)
        assert pool.submit(os.getpid).result() == worker


@pytest.mark.slow
def test_a_worker_that_dies_is_told_in_a_line():
    with pytest.raises(ChildProcessError, match="a worker process was killed"), workers(1, len, "") as pool:
        list(pool.map(os._exit, [1]))


def test_a_broken_pool_is_told_in_a_line():
    with pytest.raises(ChildProcessError, match="a worker process was killed"), workers(1, len, ""):
        raise BrokenProcessPool


def test_who_is_interrupted_waits_for_no_work():
    work: list[Future[None]] = []

    def interrupted() -> None:
        with workers(1, len, "") as pool:
            work.extend(pool.submit(time.sleep, 1) for _ in range(5))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    before = time.monotonic()
    while not all(each.done() for each in work):
        assert time.monotonic() - before < 30
        time.sleep(0.01)
    assert all(each.cancelled() or each.exception() is not None for each in work)
