"""What all programs in examples/ do about errors."""

import pytest
from jax.errors import JaxRuntimeError

from jax_attn.cli.example import run_example
from jax_attn.training import TrainingOptions


def raising(message):
    def train(options):
        raise JaxRuntimeError(message)

    return run_example("train.py", {"laptop": TrainingOptions()}, train, None, [])


def test_memory_that_runs_out_is_told_in_a_line(capsys):
    assert raising("RESOURCE_EXHAUSTED: Out of memory allocating 75277625256 bytes.\nBuffers:\n...") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("train.py: RESOURCE_EXHAUSTED: Out of memory allocating 75277625256 bytes; try")
    assert "--batch-size" in line


def test_other_errors_of_the_runtime_keep_their_traceback():
    with pytest.raises(JaxRuntimeError, match="INTERNAL"):
        raising("INTERNAL: RET_CHECK failure")
