"""Attention whose arrays lie on several devices moves none of them."""

import json
import os
import subprocess
import sys

import pytest


@pytest.fixture(scope="module", params=["training", pytest.param("--all", marks=pytest.mark.slow)])
def moved(request) -> dict[str, dict[str, dict]]:
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    command = [sys.executable, "-m", "parity_tests.functional.sharded_calls", request.param]
    ran = subprocess.run(command, env={**os.environ, "XLA_FLAGS": flags}, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.parametrize("mesh", ["Auto", "Explicit"])
def test_sharded_over_batch_and_heads_moves_nothing(moved, mesh):
    calls = dict(moved[mesh])
    # How many blocks the fullest row has is known only when running: one number, for all devices.
    packed = calls.pop("packed documents", {})
    assert set(map(str, packed.values())) <= {str({"all-reduce": 1})}
    assert len(calls) >= (3 if mesh == "Explicit" else 7)
    assert {name: passes for name, passes in calls.items() if any(passes.values())} == {}


def test_sharded_over_positions_gathers_keys_and_values_once(moved):
    calls = dict(moved["over positions"])
    # Two blocks of 65 are one position more than a device has: what lies at its ends moves to its neighbours.
    assert calls.pop("a length of 16 blocks of 65") == {"all-gather": 2, "collective-permute": 2}
    assert len(calls) == 4
    assert all(moves == {"all-gather": 2} for moves in calls.values()), calls
