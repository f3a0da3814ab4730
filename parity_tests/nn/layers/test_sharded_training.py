"""A train step on 8 simulated devices moves gradients and nothing else, on meshes of either kind."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAM = Path(__file__).with_name("sharded_training.py")
WAYS = [("auto", "data"), ("auto", "tensor"), ("explicit", "data")]
pytestmark = pytest.mark.slow  # training/test_mesh.py shows it of a decoder on one mesh
GATHERS = ("all-gather", "all-to-all", "collective-permute")


@pytest.fixture(scope="module")
def found():
    """What the compiled steps do, by mesh and way of sharding; in a process with devices of its own."""
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(PROGRAM)], capture_output=True, text=True, env=surroundings, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(("axes", "way"), WAYS)
def test_a_step_gathers_nothing(found, axes, way):
    step = found[f"{axes} {way}"]
    assert {name: step["collectives"][name] for name in GATHERS} == dict.fromkeys(GATHERS, 0)
    assert step["collectives"]["all-reduce"] > 0


@pytest.mark.parametrize(("axes", "way"), WAYS)
def test_a_step_computes_what_one_device_does(found, axes, way):
    assert found[f"{axes} {way}"]["error"] <= 1e-5
