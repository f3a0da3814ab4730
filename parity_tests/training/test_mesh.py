"""A mesh is described in a line, and a training on any of them is the training on one device."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from jax_attn.training import batch_sharding, make_mesh, place_batch

ROOT = Path(__file__).parents[2]
FEW, MORE = ("fsdp and tensor",), ("data", "fsdp", "context")
SHARES = {"data": (1, 1), "fsdp": (0, 0.2), "fsdp and tensor": (0, 0.25)}


class Device:
    """What a mesh looks at of a device."""

    platform = "cpu"


@pytest.mark.parametrize(
    ("axes", "shape"),
    [
        (None, (8, 1, 1, 1)),
        ("fsdp=8", (1, 8, 1, 1)),
        ("data=2, fsdp=-1", (2, 4, 1, 1)),
        ({"context": 2, "tensor": 4}, (1, 1, 4, 2)),
    ],
)
def test_a_mesh_has_four_axes(axes, shape):
    devices = [Device() for _ in range(8)]
    mesh = make_mesh(axes, devices, AxisType.Explicit)
    assert mesh.devices.shape == shape
    assert mesh.axis_names == ("data", "fsdp", "tensor", "context")
    assert mesh.axis_types == (AxisType.Explicit,) * 4
    assert list(mesh.devices.flat) == devices


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ("data=3", "'data=3' takes 3 devices, there are 8"),
        ("data=3,fsdp=-1", "must divide the 8 devices"),
        ("model=8", "axes data, fsdp, tensor, context; got 'model'"),
        ("data", "positive size, or -1, got ''"),
        ("data=0", "positive size, or -1, got 0"),
        ("data=-1,fsdp=-1", "may leave one axis the rest"),
        ("data=2,data=4", "name each axis once"),
    ],
)
def test_what_is_no_mesh_is_refused(axes, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(axes, [Device() for _ in range(8)])


def test_a_batch_is_placed_as_it_is():
    batch = {"ids": np.arange(12).reshape(3, 4), "weight": np.float32(2)}
    placed = place_batch(batch, make_mesh("data=1", jax.devices()[:1]))
    assert {name: x.dtype for name, x in placed.items()} == {"ids": np.int32, "weight": np.float32}
    np.testing.assert_array_equal(placed["ids"], batch["ids"])


def test_rows_lie_as_batches_are_placed():
    """An axis of one device is not named: on explicit axes rows and what comes of them would not go together."""
    mesh = make_mesh("data=1", jax.devices()[:1], AxisType.Explicit)
    assert batch_sharding(mesh) == place_batch(np.zeros((2, 3)), mesh).sharding
    assert batch_sharding(mesh).spec == PartitionSpec()


def run(*arguments: str) -> dict[str, dict]:
    """What steps on simulated devices do, by mesh; in a process that has them."""
    command = [sys.executable, "-m", "parity_tests.training.mesh_training", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return {mesh: found for _, mesh, found in map(json.loads, done.stdout.splitlines())}


@pytest.fixture(
    scope="module",
    params=[
        ("decoder", *FEW),
        pytest.param(("decoder", *MORE), marks=pytest.mark.slow),
        pytest.param(("encoder", *FEW, *MORE), marks=pytest.mark.slow),
    ],
    ids=", ".join,
)
def trained(request) -> dict[str, dict]:
    """On one device under "one", and on meshes."""
    name, *meshes = request.param
    found = run(f"--{name}", "one", *meshes)
    assert list(found) == ["one", *meshes]
    return found


def test_a_mesh_changes_no_loss(trained):
    want = trained["one"]["losses"]
    assert len(set(want)) == len(want) > 2
    for mesh, found in trained.items():
        assert found["losses"] == pytest.approx(want, abs=1e-5), mesh


def test_no_activation_is_gathered(trained):
    for mesh in trained.keys() - {"one"}:
        assert trained[mesh]["gathered activations"] == [], mesh
        assert trained[mesh]["collectives"]["all-reduce"] > 0, mesh


def test_parameters_are_dealt_out(trained):
    for mesh in trained.keys() & SHARES.keys():
        least, most = SHARES[mesh]
        assert least <= trained[mesh]["share"] <= most, mesh


@pytest.mark.slow
def test_explicit_axes_change_no_loss():
    want = run("--decoder", "one")["one"]["losses"]
    for mesh, found in run("--decoder", "--explicit", "fsdp", "fsdp and tensor", "context").items():
        assert found["losses"] == pytest.approx(want, abs=1e-5), mesh
