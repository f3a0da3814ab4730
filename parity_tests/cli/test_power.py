"""`jax-attn verify --power`."""

import json
import pickle

import pytest

from jax_attn.cli.main import main
from jax_attn.cli.power import ALL_MUTATIONS, BEDS, TRAINING_BEDS, chosen_beds
from jax_attn.cli.training_beds import OPTIMIZERS
from jax_attn.parity.lanes import LANES

pytestmark = pytest.mark.unchecked_shapes  # for speed


def test_every_mutation_is_injected_once_or_more():
    assert {name for bed in [*BEDS, *TRAINING_BEDS] for name in bed.mutations} == set(ALL_MUTATIONS)
    assert chosen_beds((), LANES) == [*BEDS, *TRAINING_BEDS]
    assert pickle.loads(pickle.dumps([*BEDS, *TRAINING_BEDS])) == [*BEDS, *TRAINING_BEDS]  # to a process each
    assert {bed.row for bed in TRAINING_BEDS} == set(OPTIMIZERS)


def test_the_mutations_of_training(capsys):
    assert main(["verify", "clipping", "schedule-late", "--power", "--lanes", "float64"]) == 0
    assert "5 of 5 injections of 4 mutations caught" in capsys.readouterr().out


def test_a_family_and_a_mutation(capsys, tmp_path):
    file = tmp_path / "power.json"
    status = main(["verify", "losses", "pooled-last", "--power", "--lanes", "float64", "--json", str(file)])
    lines = capsys.readouterr().out.splitlines()
    assert status == 0
    assert [line.split()[0] for line in lines if line.endswith("caught")][:2] == [
        "pooled-last",
        "pooled-last",
    ]
    assert "8 of 8 injections of 7 mutations caught" in lines[-1]
    data = json.loads(file.read_text())
    assert data["passed"]
    assert {trial["verdict"] for pair in data["pairs"] for trial in pair["trials"]} == {"caught"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gelu-frm"], "the nearest are gelu-form"),
        (["losses", "--lanes", "float32"], "needs the float64 lane"),
        (["dropout-rate", "--lanes", "float64"], "in the dropout lane alone"),
        (["--text", "Hello"], "takes no --checkpoint, --text or --ignore"),
    ],
)
def test_what_is_refused(arguments, message, capsys):
    assert main(["verify", "--power", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_mutation_that_is_missed_fails(monkeypatch, capsys):
    from jax_attn.cli import power

    bed = power.Bed("attention", ("scale-missing", "mask-missing"), cases=("plain",))
    monkeypatch.setattr(power, "BEDS", [bed])
    monkeypatch.setattr(power, "TRAINING_BEDS", [])
    assert main(["verify", "--power", "--lanes", "float64"]) == 1
    assert "MISSED, without effect" in capsys.readouterr().out
