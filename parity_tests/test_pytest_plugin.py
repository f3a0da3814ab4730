"""The fixture `assert_parity`, in a pytest of its own."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch  # noqa: F401  what the pytest within imports first would be unloaded after it

from jax_attn.catalogue import pretrained  # noqa: F401
from jax_attn.parity import locate  # noqa: F401

pytest_plugins = ["pytester"]

HEAD = """
import numpy as np
import torch
from flax import nnx

x = np.random.default_rng(0).standard_normal((2, 3))
"""

TESTS = {
    "passes": """
def test_it(assert_parity):
    flax, theirs = nnx.Linear(3, 5, rngs=nnx.Rngs(0)), torch.nn.Linear(3, 5)
    report = assert_parity(flax, theirs, x, lanes=["float64"])
    assert report.passed
    assert report.lanes == ["float64"]
""",
    "differs": """
def test_it(assert_parity):
    rngs = nnx.Rngs(0)
    flax = nnx.Sequential(nnx.Linear(3, 5, rngs=rngs), nnx.LayerNorm(5, epsilon=1e-3, rngs=rngs))
    theirs = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.LayerNorm(5))
    assert_parity(flax, theirs, x, lanes=["float64"])
""",
}


@pytest.fixture
def run(pytester, monkeypatch):
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(test: str) -> pytest.RunResult:
        pytester.makepyfile(HEAD + TESTS[test])
        return pytester.runpytest_inprocess("-p", "jax_attn.pytest_plugin")

    return run


def test_a_port_that_agrees_passes(run):
    run("passes").assert_outcomes(passed=1)


def test_a_port_that_differs_fails_with_the_module(run):
    result = run("differs")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["*FAILED, * of * comparisons in 1 lane, 1 case", "*first divergence*LayerNorm*"]
    )
    told = result.stdout.str()
    assert "report.assert_passed()" not in told  # the traceback ends in the user's test
    assert "assert_parity(flax, theirs, x" in told


def test_pytest_starts_without_jax():
    code = (
        "import jax_attn.pytest_plugin, sys; print([m for m in ('jax', 'torch', 'flax') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_it_is_installed_with_the_package():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"jax_attn": "jax_attn.pytest_plugin"}
