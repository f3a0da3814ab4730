"""Attention whose batch or heads are dealt out over devices is what it is on one."""

import json
import os
import subprocess
import sys

import pytest

from jax_attn.parity import tolerances

FEW = "gated delta rule", "Nyström"
# Heads that meet others: of a pair, or all; and key heads that are fewer than the devices.
MOVE_HEADS = "differential", "talking heads", "grouped gated delta rule", "Shaw", "disentangled"


@pytest.fixture(scope="module", params=[FEW, pytest.param((), marks=pytest.mark.slow)], ids=["few", "all"])
def found(request):
    command = [sys.executable, "-m", "parity_tests.nn.attention.sharded_modules", *request.param]
    ran = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return json.loads(ran.stdout.splitlines()[-1])


def test_a_mesh_changes_no_output_and_no_gradient(found):
    errors = {(name, way): one["error"] for name, ways in found.items() for way, one in ways.items()}
    assert len(errors) >= 3 * len(found) - 2
    assert {place: error for place, error in errors.items() if not error <= tolerances.MODULE} == {}


def test_no_activation_is_gathered(found):
    moved = {
        (name, way): one["moved"]
        for name, ways in found.items()
        for way, one in ways.items()
        if one.get("moved") and name not in MOVE_HEADS
    }
    assert moved == {}
