"""Several processes, each with devices of its own, as one training."""

import os
import socket
import time
from typing import Any

import jax


def initialize(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    timeout: float = 300,
) -> None:
    """Join the processes of a training; call it before anything else of JAX.

    Without arguments, JAX looks for what started the processes (Slurm, Open MPI, GKE, Cloud TPU) and asks it; where
    it finds nothing, this process is alone. A second call does nothing.

    Args:
        coordinator: "host:port" of process 0, where the others reach it.
        num_processes: how many processes there are.
        process_id: which of them this is, from 0.
        timeout: how long to wait for the others, in seconds. Where the coordinator is there and another process is
            not, XLA then ends this one.

    Raises:
        ValueError: one of the three is given without the others, or they do not go together.
        TimeoutError: the coordinator does not answer in time.
    """
    if jax.distributed.is_initialized():
        return
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if len(missing) == len(given):
        _detected(timeout)
        return
    if coordinator is None or num_processes is None or process_id is None:
        named = " and ".join(name for name in given if name not in missing)
        raise ValueError(
            f"{named} must come with {' and '.join(missing)}: give all three, or none to detect them"
        )
    address = _address(coordinator)
    if num_processes < 1 or not 0 <= process_id < num_processes:
        raise ValueError(
            "process_id must be from 0 to below num_processes, got "
            f"process_id={process_id} and num_processes={num_processes}"
        )
    if process_id:
        _wait_for(address, timeout)
    _join(timeout, coordinator_address=coordinator, num_processes=num_processes, process_id=process_id)


def _address(coordinator: str) -> tuple[str, int]:
    host, colon, port = coordinator.rpartition(":")
    if not (colon and host and port.isdecimal() and 0 < int(port) < 2**16):
        raise ValueError(f'coordinator must be "host:port", got {coordinator!r}')
    return host.strip("[]"), int(port)


def _detected(timeout: float) -> None:
    """Join as what started the processes says; stay alone where nothing is found."""
    if os.environ.get("SLURM_NTASKS") == "1":  # JAX would show it the first of its GPUs alone
        return
    try:
        _join(timeout)
    except ValueError as error:
        if "coordinator_address" not in str(error):  # what it says where it finds nothing
            raise


def _wait_for(address: tuple[str, int], timeout: float) -> None:
    """Raise TimeoutError unless the coordinator takes a connection in time. (JAX itself would end the process.)"""
    end, last = time.monotonic() + timeout, "no answer"
    while (left := end - time.monotonic()) > 0:
        try:
            socket.create_connection(address, timeout=min(left, 10)).close()
            return
        except OSError as error:
            last = str(error)
            time.sleep(min(0.2, max(end - time.monotonic(), 0)))
    host, port = address
    raise TimeoutError(
        f"coordinator {host}:{port} could not be reached within {timeout:g} s ({last}): is process 0 running "
        "there, and is the port open?"
    )


def _join(timeout: float, **given: Any) -> None:
    jax.distributed.initialize(**given, initialization_timeout=max(1, round(timeout)))
