"""Heads that are dealt out to devices stay there while decoding, and so do their keys and values."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jax_attn.parity import tolerances

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
def test_decoding_on_a_mesh_moves_sums_and_nothing_else():
    program = Path(__file__).with_name("sharded_decoding.py")
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(program)], capture_output=True, text=True, env=surroundings, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["error"] <= tolerances.SAME_FLOAT32
    assert set(found["heads"]) == {2}
    assert found["collectives"].pop("all-reduce") == 3  # each branch of the layer that is a loop's body
    assert set(found["collectives"].values()) == {0}
