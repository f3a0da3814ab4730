"""Several processes are one training, or say in one line why they are not."""

import json
import os
import socket
import subprocess
import sys

import jax
import pytest
from jax._src import xla_bridge

from jax_attn.training import initialize


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"coordinator": "here:1234"}, "coordinator must come with num_processes and process_id"),
        ({"num_processes": 2, "process_id": 1}, "num_processes and process_id must come with coordinator"),
        ({"coordinator": "here", "num_processes": 2, "process_id": 0}, "must be \"host:port\", got 'here'"),
        ({"coordinator": "here:0", "num_processes": 2, "process_id": 0}, 'must be "host:port"'),
        ({"coordinator": "here:12", "num_processes": 2, "process_id": 2}, "from 0 to below num_processes"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        initialize(**given)


def test_a_coordinator_that_is_not_there_is_named():
    port = free_port()
    with pytest.raises(TimeoutError, match=f"127.0.0.1:{port} could not be reached within 0.3 s"):
        initialize(f"127.0.0.1:{port}", 2, 1, timeout=0.3)


def test_without_arguments_and_anything_to_detect_a_process_is_alone(monkeypatch):
    monkeypatch.setattr(xla_bridge, "backends_are_initialized", lambda: False)  # as in a process of its own
    initialize()
    monkeypatch.setenv("SLURM_NTASKS", "1")
    initialize()
    assert jax.process_count() == 1
    assert not jax.distributed.is_initialized()


def run(processes: int) -> list[str]:
    """What each of the processes prints last."""
    command = [sys.executable, "-m", "parity_tests.training.two_processes", f"127.0.0.1:{free_port()}"]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    running = [
        subprocess.Popen(
            [*command, str(processes), str(i)], env=environment, stdout=subprocess.PIPE, text=True
        )
        for i in range(processes)
    ]
    return [process.communicate(timeout=300)[0].splitlines()[-1] for process in running]


@pytest.mark.slow
def test_two_processes_train_as_one():
    (alone,) = run(1)
    first, second = run(2)
    assert first == second
    (count, devices, losses), (_, own_devices, want) = json.loads(first), json.loads(alone)
    assert (count, devices) == (2, 2 * own_devices)
    assert losses == pytest.approx(want, rel=1e-6)
