"""`jax-attn compile`: its answer, its exit status, and one line for what is wrong."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from jax_attn.cli import compiling
from jax_attn.cli.main import main
from jax_attn.training.sizing import search as searching
from jax_attn.training.sizing.search import WITHOUT, Candidate, Tried, candidates, meshes

ROOT = Path(__file__).parents[2]
COMPILER = Path(os.environ.get("TPU_LIBRARY_PATH", ROOT / ".cache/libtpu/libtpu/libtpu.so"))

MODEL = """
import jax.numpy as jnp, optax
from flax import nnx

class Model(nnx.Module):
    def __init__(self, rngs):
        self.up, self.down = nnx.Linear(16, 64, rngs=rngs), nnx.Linear(64, 16, rngs=rngs)

    def __call__(self, x):
        return self.down(nnx.relu(self.up(x)))

def step():
    return {
        "model": lambda: Model(nnx.Rngs(0)),
        "optimizer": optax.adam(1e-3),
        "inputs": lambda rows: {"x": jnp.zeros((rows, 16))},
        "loss": lambda model, batch: (model(batch["x"]) ** 2).sum(),
    }

def lacking():
    return {"model": Model, "loss": len}

def broken():
    def loss(model, batch):
        return len(model.middle(batch["x"]))
    return step() | {"loss": loss}

def huge():
    def loss(model, batch):
        wide = jnp.ones((16, 2**15)) * model.up.bias[0]
        return ((jnp.tanh(batch["x"] @ wide) @ wide.T) ** 2).sum()
    return step() | {"inputs": lambda rows: {"x": jnp.zeros((2**20, 16))}, "loss": loss}
"""
PARAMETERS = 16 * 64 + 64 + 64 * 16 + 16


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    return path


def run(*arguments):
    """In a process of its own: devices are set up once."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    command = [sys.executable, "-m", "jax_attn", "compile", *map(str, arguments)]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_a_step_on_eight_devices(model, tmp_path):
    """The bytes of a device by hand; products and what FSDP has to gather and to reduce."""
    out = tmp_path / "out.json"
    done = run(model, "--topology", "cpu:8", "--mesh", "fsdp=8", "--batch", 24, "--json", out)
    assert done.returncode == 0, done.stderr
    assert f"{PARAMETERS:,} parameters on cpu:8, fsdp=8; a batch of 24 rows: fits" in done.stdout
    found = json.loads(out.read_text())
    held = found["bytes_a_device"]
    assert held["parameters"] == PARAMETERS * 4 // 8
    assert held["optimizer"] == 2 * held["parameters"] + 4
    assert held["batch"] == 24 * 16 * 4 // 8
    assert held["total"] >= sum(held[name] for name in ("parameters", "optimizer", "batch", "temporaries"))
    product = 2 * 24 * 16 * 64
    assert found["flops"]["by_module"] == {
        "up": 2 * product,
        "down": 3 * product,
    }  # the input has no gradient
    kinds = {each["kind"]: each for each in found["collectives"]}
    assert kinds["all-gather"]["group"] == 8
    assert kinds.keys() & {"all-reduce", "reduce-scatter"}
    assert found["seconds_a_step"]["bound"] == "compute"


@pytest.mark.skipif(
    not COMPILER.is_file() and find_spec("libtpu") is None,
    reason="no TPU compiler: `make tpu-compiler` fetches it",
)
def test_for_tpus_that_are_not_here(model, tmp_path):
    out = tmp_path / "out.json"
    fits = run(model, "--topology", "v5e:2x2", "--json", out)
    assert fits.returncode == 0, fits.stderr
    assert json.loads(out.read_text())["bytes_a_device"]["parameters"] == PARAMETERS
    too_much = run(f"{model}:huge", "--topology", "v5e:2x2")
    assert too_much.returncode == 1, too_much.stderr
    assert "does not fit: needs" in too_much.stdout
    assert "of 15.75 GiB" in too_much.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.py", "--topology", "cpu:1"], "there is no file none.py"),
        (["{model}", "--topology", "abacus:8"], "--topology must be KIND:SIZE, as in v5e:16x16"),
        (["{model}", "--topology", "cpu:0"], "--topology must be KIND:SIZE"),
        (["{model}", "--topology", "cpu:1", "--batch", "0"], "--batch must be at least 1, got 0"),
        (["{model}", "--topology", "cpu:1", "--mesh", "fsdp=3"], "takes 3 devices, there are 1"),
        (
            ["{model}", "--topology", "cpu:1", "--mesh", "rows=1"],
            "mesh has the axes data, fsdp, tensor, context",
        ),
        (["{model}:steps", "--topology", "cpu:1"], "has no function steps"),
        (["{model}:lacking", "--topology", "cpu:1"], "lacking: it returned no 'optimizer' and no 'inputs'"),
        (["{model}:broken", "--topology", "cpu:1"], "while it was traced (`return len(model.middle"),
        (["{model}", "--topology", "cpu:1", "--remat"], "step: remat needs a function that takes remat="),
    ],
)
def test_what_is_wrong_is_told_in_a_line(arguments, message, model, capsys):
    assert main(["compile", *(each.format(model=model) for each in arguments)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("jax-attn: ")
    assert error.count("\n") == 1


def test_without_libtpu_the_command_that_installs_it_is_told(model, monkeypatch, capsys, tmp_path):
    from jax_attn.training.sizing import target

    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    monkeypatch.setattr(target, "find_spec", lambda name: None)
    monkeypatch.setattr(target, "_CHECKOUT", Path("nowhere"))
    assert main(["compile", str(model), "--topology", "v5e:2x2"]) == 2
    assert "is not installed: pip install 'libtpu" in capsys.readouterr().err


def test_meshes_multiply_to_the_devices():
    for count in (1, 2, 12, 256):
        found = [*meshes(count)]
        assert found
        assert all(_product(mesh) == count for mesh in found)
        assert len({tuple(sorted(mesh.items())) for mesh in found}) == len(found)


def test_candidates_divide_their_batch():
    found = candidates([*meshes(8)], [8, 4], [False, True])
    assert Candidate({"fsdp": 8}, 8, False) in found
    assert all(each.rows % (each.mesh.get("data", 1) * each.mesh.get("fsdp", 1)) == 0 for each in found)


def _product(mesh):
    product = 1
    for size in mesh.values():
        product *= size
    return product


class Memory:
    def __init__(self, fits):
        self.fits = fits


class Sized:
    """What `compile_step` gives, as far as a search looks at it."""

    def __init__(self, fits, tokens_per_second):
        self.memory, self.tokens_per_second = Memory(fits), tokens_per_second


def test_a_search_ranks_what_fits_and_leaves_out_what_cannot(monkeypatch):
    """On `fsdp` 8 rows fit with remat alone; 16 not even so. On `data` nothing does, by its parameters."""
    compiled = []

    def compile_step(step, target):
        compiled.append(step)
        return Sized(
            step.rows == 4 or (step.rows == 8 and step.remat), step.rows * (0.75 if step.remat else 1)
        )

    monkeypatch.setattr(searching, "make_mesh", lambda mesh, devices: mesh)
    monkeypatch.setattr(
        searching,
        "given_bytes",
        lambda step: {"parameters": 60 if "data" in step.mesh else 1, "optimizer": 1},
    )

    class Target:
        devices = ()

        class chip:
            memory = 100

    found = candidates([{"fsdp": 2}, {"data": 2}], [4, 8, 16], [False, True])
    told = []
    results = searching.search(Target, found, lambda candidate, mesh: candidate, 9, told.append, compile_step)
    assert [str(each) for each in compiled] == [
        "fsdp=2, 4 rows",
        "fsdp=2, 8 rows",
        "fsdp=2, 8 rows, remat",
        "fsdp=2, 16 rows, remat",
    ]
    assert [str(each.candidate) for each in results if each.fits] == [
        "fsdp=2, 8 rows, remat",
        "fsdp=2, 4 rows",
    ]
    assert len(told) == len(found) == len(results)
    reasons = {str(each.candidate): each.reason for each in results}
    assert reasons["fsdp=2, 4 rows, remat"] == WITHOUT
    assert reasons["data=2, 4 rows"] == "does not fit: state and gradients alone do not"
    assert reasons["data=2, 8 rows"] == "does not fit: 4 rows do not"
    assert isinstance(results[0], Tried)
    few = searching.search(Target, found, lambda candidate, mesh: candidate, 1, size=compile_step)
    assert sum(each.sizing is not None for each in few) == 1


@pytest.mark.parametrize(
    ("search", "remat", "got"), [(True, False, False), (True, True, True), (False, False, True)]
)
def test_a_search_decides_on_remat_whatever_the_functions_default_is(tmp_path, search, remat, got):
    file = tmp_path / "model.py"
    file.write_text(
        "def step(remat=True):\n"
        "    return {'model': list, 'optimizer': 1, 'inputs': 1, 'loss': lambda model, batch: remat}\n"
    )
    request = compiling.Request(str(file), "cpu:1", None, None, False, None)
    assert compiling.Described(request, search).description(remat).loss(None, None) is got


def test_a_search_counts_rows_where_there_are_no_tokens(model):
    done = run(model, "--topology", "cpu:2", "--mesh", "data=2", "--search", "--tries", 1)
    assert done.returncode == 0, done.stderr
    assert "rows a second at best" in done.stdout
    assert "tokens a second" not in done.stdout
