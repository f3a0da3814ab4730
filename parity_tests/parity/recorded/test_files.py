"""A run of torch in files, compared where torch cannot be imported."""

import json
import os
import subprocess
import sys

import pytest

from jax_attn.cli.main import main
from jax_attn.parity.recorded.files import FORMAT, TorchTrace

TORCH = """
import numpy as np
import torch

def pair():
    torch.manual_seed(0)
    layers = [torch.nn.Linear(4, 6), torch.nn.LayerNorm(6), torch.nn.Linear(6, 3)]
    x = np.random.default_rng(0).standard_normal((2, 5, 4))
    return {"torch": torch.nn.Sequential(*layers), "inputs": {"input": x}}

def raises():
    return None, pair()["torch"], (np.zeros((2, 7)),)

def takes_a_set():
    return {**pair(), "kwargs": {"a": {1}}, "call_torch": lambda module, input, a: module(input)}
"""

FLAX = """
import numpy as np
from flax import nnx

def port(epsilon=1e-5):
    rngs = nnx.Rngs(0)
    norm = nnx.LayerNorm(6, epsilon=epsilon, use_fast_variance=False, rngs=rngs)
    layers = nnx.Linear(4, 6, rngs=rngs), norm, nnx.Linear(6, 3, rngs=rngs)
    return {"flax": nnx.Sequential(*layers), "call_flax": lambda module, input: module(input)}

def wrong():
    return port(1e-4)

def other_inputs():
    return {**port(), "inputs": {"input": np.zeros((2, 5, 4))}}

def other_names():
    return {**port(), "inputs": (np.zeros((2, 5, 4)),)}

def same_inputs():
    return {**port(), "inputs": {"input": np.random.default_rng(0).standard_normal((2, 5, 4))}}

def own_weights():
    return {**port(), "weights": None}

def from_flax():
    return {**port(), "weights": "flax"}

def rough():
    def call_flax(module, input):
        y = module(input)
        coarse = y.astype("bfloat16").astype(y.dtype)
        return y if y.dtype == "float64" else y + (coarse - y)

    return {**port(), "call_flax": call_flax}

def alone():
    return nnx.Linear(4, 6, rngs=nnx.Rngs(0))
"""

WITHOUT_TORCH = """
import sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ModuleNotFoundError("there is no torch here", name="torch")

sys.meta_path.insert(0, NoTorch())
from jax_attn.cli.main import main
status = [main(["diff", place, *sys.argv[3:]]) for place in sys.argv[1:3]]
assert "torch" not in sys.modules
print("status", status)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trace")
    (folder / "original.py").write_text(TORCH)
    (folder / "ported.py").write_text(FLAX)
    assert main(["trace", str(folder / "original.py"), "--out", str(folder / "run")]) == 0
    return folder


def told(capsys, *arguments) -> tuple[int, str]:
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def test_what_is_written_is_read_again(folder):
    trace = TorchTrace.load(folder / "run")
    assert set(trace.draws) == set(trace.recordings) == {"float64", "float32"}
    assert [call.path for call in trace.recordings["float64"].calls] == ["", "0", "1", "2"]
    assert trace.case.kwargs["input"].shape == (2, 5, 4)
    for lane, recording in trace.recordings.items():
        assert {str(call.outputs[0].dtype) for call in recording.calls} == {lane}
        assert recording.calls[1].outputs[0] is recording.calls[2].inputs["input"]  # one tensor, once
        assert recording.calls[2].gradients[0].shape == (2, 5, 6)
    assert len(trace.draws["float32"]) == 4
    assert set(trace.draws["float64"][0].run.gradients) == set(trace.module.weights)


@pytest.mark.slow
def test_a_port_is_compared_where_there_is_no_torch(folder, tmp_path):
    places = [f"{folder / 'ported.py'}:{name}" for name in ("port", "wrong")]
    files = ["--html", tmp_path / "page.html", "--json", tmp_path / "found.json"]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *map(str, [*places, "--against", folder / "run", *files])],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr
    assert "status [0, 1]" in done.stdout
    good, bad = done.stdout.split("ported.py:wrong on the inputs of")
    assert good.startswith("ported.py:port on the inputs of")
    assert "run: passed, 16 comparisons in 2 lanes" in good
    assert "the trace does not hold this lane" in good
    assert "first divergence, forward: layers.1 (LayerNorm); in torch 1 (LayerNorm)" in bad
    assert "isolated: DIFFERS" in bad
    assert "no cause was looked for: that takes torch" in bad
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["report"]["first_divergence"]["torch_path"] == "1"
    assert "first divergence" in (tmp_path / "page.html").read_text()


def test_gradients_are_traced_as_with_torch_itself(folder, capsys):
    """The same divergence, and the same numbers, as a comparison with torch gives."""
    from jax_attn.cli.user_file import load_port
    from jax_attn.parity.locate import trace_modules
    from jax_attn.parity.recorded.against import recorded_sides, trace_against

    flax, torch = (load_port(str(folder / name)) for name in ("ported.py:port", "original.py"))
    recorded = TorchTrace.load(folder / "run")
    sides, _ = recorded_sides(flax.flax, recorded, call_flax=flax.call_flax)
    from_files = trace_against(recorded, sides)
    direct = trace_modules(flax.flax, torch.torch, call_flax=flax.call_flax, kwargs=torch.case.kwargs)
    assert from_files.backward
    assert [call.to_json() for call in from_files.calls] == [call.to_json() for call in direct.calls]


def test_where_no_submodule_differs_that_is_told(folder, capsys):
    """The mutation is in float32 alone, and traces are made in float64."""
    place, lanes = f"{folder / 'ported.py'}:rough", ("--lanes", "float32")
    status, text = told(capsys, "diff", place, "--against", folder / "run", *lanes)
    assert status == 1
    assert "first divergence  every submodule that was compared agrees in float64" in text


@pytest.mark.slow
def test_a_file_that_imports_torch_cannot_run_without_it(folder):
    """It says in one line that it takes two files."""
    place = str(folder / "original.py")
    code = WITHOUT_TORCH.replace("assert", "#")
    done = subprocess.run(
        [sys.executable, "-c", code, place, place, "--against", str(folder / "run")],
        capture_output=True, text=True, check=False, env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )  # fmt: skip
    assert "status [2, 2]" in done.stdout
    first, second = done.stderr.splitlines()
    assert first == second
    assert "original.py imports torch, which is not installed here" in first
    assert "it takes two files" in first


@pytest.mark.parametrize(
    "name", ["other_inputs", "other_names", pytest.param("same_inputs", marks=pytest.mark.slow)]
)
def test_the_inputs_are_the_recorded_ones(folder, capsys, name):
    """A file whose inputs are not seeded returns others every time."""
    place, run = f"{folder / 'ported.py'}:{name}", folder / "run"
    status, text = told(capsys, "diff", place, "--against", run, "--lanes", "float64")
    assert status == 0
    assert text.startswith(f"ported.py:{name} on the inputs of {run}: passed")


def test_weights_are_the_recorded_ones_or_its_own(folder, capsys):
    def run(name: str, *lanes: str) -> tuple[int, str]:
        place = f"{folder / 'ported.py'}:{name}"
        return told(capsys, "diff", place, "--against", folder / "run", "--lanes", *lanes)

    status, text = run("own_weights", "float64")
    assert status == 1
    assert "first divergence, forward: layers.0 (Linear)" in text
    status, text = run("from_flax", "float64")
    assert status == 2
    assert 'weights="flax" needs torch' in text
    status, text = run("port", "bfloat16", "dropout")
    assert status == 2
    assert "nothing was compared" in text


def test_bad_traces_are_told(folder, capsys, tmp_path):
    port = f"{folder / 'ported.py'}:port"

    def refusal(*arguments) -> str:
        status, text = told(capsys, *arguments)
        assert status == 2
        return text

    assert "holds no trace" in refusal("diff", port, "--against", tmp_path)
    (tmp_path / "trace.json").write_text('{"format": 7}')
    (tmp_path / "trace.safetensors").write_bytes((folder / "run" / "trace.safetensors").read_bytes())
    assert f"format 7, expected {FORMAT}" in refusal("diff", port, "--against", tmp_path)
    (tmp_path / "trace.json").write_bytes((folder / "run" / "trace.json").read_bytes())
    (tmp_path / "trace.safetensors").write_bytes(b"nonsense")
    assert "corrupt" in refusal("diff", port, "--against", tmp_path)
    content = json.loads((folder / "run" / "trace.json").read_text())
    (tmp_path / "trace.safetensors").write_bytes((folder / "run" / "trace.safetensors").read_bytes())
    for part in ("recordings", "draws"):
        emptied = {**content, part: {lane: [] for lane in content["draws"]} if part == "draws" else {}}
        (tmp_path / "trace.json").write_text(json.dumps(emptied))
        assert "no whole trace" in refusal("diff", port, "--against", tmp_path)
    assert "--train needs torch" in refusal("diff", port, "--against", folder / "run", "--train")
    assert "unexpected: 1.weight" in refusal(
        "diff", f"{folder / 'ported.py'}:alone", "--against", folder / "run"
    )
    original = folder / "original.py"
    assert "torch raised RuntimeError" in refusal("trace", f"{original}:raises", "--out", tmp_path / "a")
    assert "no torch module" in refusal("trace", port, "--out", tmp_path / "a")
    assert "must be a folder" in refusal("trace", original, "--out", tmp_path / "trace.json")
    assert "an input of type set" in refusal("trace", f"{original}:takes_a_set", "--out", tmp_path / "a")
