import port_your_model
import pytest
from port_your_model import stages

from jax_attn.cli.main import main

# Where each mistake shows first: the stage; the module at fault, and where in its own code. And the cause.
FOUND = {
    "epsilon": ("stage 2, layer", "norm1", (None, None), "eps: flax 1e-06, torch 1e-05"),
    "gelu": (
        "stage 1, feed-forward",
        "",
        ("linear1", "dropout"),
        "activation: flax tanh GELU, torch erf GELU",
    ),
    "mask": ("stage 2, layer", "self_attn", (None, None), "mask: flax True = masked, torch True = attend"),
    "norm-first": (
        "stage 2, layer",
        "",
        (None, "self_attn"),
        "norm placement: flax pre-norm, torch post-norm",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "mistake",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in ("gelu", "mask", "norm-first")))
        for name in FOUND
    ],
)
def test_each_mistake_is_found_in_the_first_stage_that_has_it(mistake, capsys):
    *passed, failed = stages(mistake, ["float64"])
    assert all(report.passed for report in passed)
    where = failed.first_divergence
    *expected, cause = FOUND[mistake]
    assert [failed.title, where.flax_path, (where.after, where.before)] == expected
    told = capsys.readouterr().out
    assert "cause, certain" in told
    assert cause in told


@pytest.mark.slow
@pytest.mark.parametrize(
    "lanes",
    [("float64", "dropout"), ("float64", "float32", "dropout")],
    ids=len,
)
def test_the_repaired_port_agrees_in_every_lane(lanes):
    reports = stages("none", lanes)
    assert [report.title[:7] for report in reports] == ["stage 1", "stage 2", "stage 3"]
    assert all(report.passed for report in reports)
    assert all(set(report.lanes) == set(lanes) for report in reports)


@pytest.mark.slow
def test_it_is_a_file_for_diff(capsys):
    assert main(["diff", port_your_model.__file__, "--lanes", "float64"]) == 1
    out = capsys.readouterr().out
    assert "first divergence, forward: layers.0.norm1 (LayerNorm)" in out


@pytest.mark.slow
def test_its_training_agrees_too():
    train = ["--train", "--lanes", "float64"]
    assert main(["diff", f"{port_your_model.__file__}:repaired", *train]) == 0


def test_bad_mistakes_are_refused(capsys):
    with pytest.raises(SystemExit):
        port_your_model.main(["--mistake", "spelling"])
    assert "spelling" in capsys.readouterr().err
