"""Attention in a ring of devices is attention."""

import json
import os
import subprocess
import sys

import pytest

from jax_attn.parity import tolerances

FEW = ("causal, sinks, soft-cap", "mask and bias of keys")


@pytest.fixture(scope="module", params=[FEW, pytest.param((), marks=pytest.mark.slow)])
def found(request) -> list[list]:
    command = [sys.executable, "-m", "parity_tests.functional.ring_calls", *request.param]
    ran = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    return [json.loads(line) for line in ran.stdout.splitlines()]


def test_outputs_and_gradients_are_those_of_one_device(found):
    calls = {(name, axes): errors for name, axes, errors, _ in found[2:]}
    assert len(calls) >= 3
    assert {call: max(errors) for call, errors in calls.items() if max(errors) > tolerances.MODULE} == {}


def test_keys_and_values_go_around(found):
    assert all(moves.get("collective-permute", 0) >= 6 for *_, moves in found[2:])


def test_memory_follows_the_tokens_of_a_device(found):
    _, four, eight = found[1]
    assert eight <= 1.05 * four
    assert eight < 512 * 4096 * 4  # what scores of a device's queries and all keys would take


def test_what_a_ring_cannot_do_is_refused(found):
    (_, message) = found[0]
    assert "dealt out over 4 devices" in message
    assert "never holds the weights" in message
