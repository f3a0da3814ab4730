"""`jax-attn verify kernels` on the device of the tests, with few tokens."""

import json

import jax.numpy as jnp
import pytest

from jax_attn import cli
from jax_attn.cli import verify_kernels


@pytest.fixture(autouse=True)
def _one_mask(monkeypatch):
    monkeypatch.setattr(verify_kernels, "MASKS", {"causal": {"is_causal": True}})
    monkeypatch.setattr(verify_kernels, "WIDTHS", (8,))
    monkeypatch.setattr(verify_kernels, "TOKENS", {"cpu": 37})


def test_passes_and_writes_what_it_measured(tmp_path, capsys):
    assert cli.main(["verify", "kernels", "--json", str(tmp_path / "found.json")]) == 0
    report = json.loads((tmp_path / "found.json").read_text())
    assert [(x["implementation"], x["dtype"]) for x in report["results"]] == [
        (name, dtype) for dtype in ("bfloat16", "float32") for name in ("xla", "blockwise")
    ]
    assert all(x["ratio"] <= 2 and x["milliseconds"] > 0 for x in report["results"])
    assert "4 of 4 passed" in capsys.readouterr().out


@pytest.mark.slow
def test_a_fault_fails(monkeypatch, capsys):
    right = verify_kernels.dot_product_attention

    def wrong(q, k, v, implementation, **options):
        output = right(q, k, v, implementation=implementation, **options)
        return output * (1.1 if implementation == "blockwise" else 1)

    monkeypatch.setattr(verify_kernels, "dot_product_attention", wrong)
    monkeypatch.setattr(verify_kernels, "DTYPES", ("bfloat16",))
    assert cli.main(["verify", "kernels"]) == 1
    assert "1 of 2 passed" in capsys.readouterr().out


def test_what_is_not_served_is_told_and_is_no_failure():
    (found,) = verify_kernels.measure(("pallas",), "causal", "float32", 8, 37)
    assert "not on cpu" in found.reason
    assert found.passed
    assert not verify_kernels.Measured("xla", "causal", "float32", 8, jnp.inf).passed


def test_goes_with_nothing_else(capsys):
    assert cli.main(["verify", "kernels", "multi-head"]) == 2
    assert "kernels" in capsys.readouterr().err
