"""`jax-attn verify --power`."""

import json

import pytest

from jax_attn.catalogue.fixtures import of_row
from jax_attn.cli.main import main
from jax_attn.cli.power import ALL_FIXTURES, ALL_MUTATIONS, chosen
from jax_attn.parity.lanes import LANES


def test_every_mutation_is_injected_once_or_more():
    work = chosen((), LANES)
    assert {name for _, mutations in work for name in mutations} == set(ALL_MUTATIONS)
    assert {fixture for fixture, _ in work} == set(ALL_FIXTURES)
    assert {fixture for mutation in ALL_MUTATIONS.values() for fixture in mutation.on} == set(ALL_FIXTURES)


@pytest.mark.slow
def test_the_mutations_of_training(capsys):
    assert main(["verify", "clip-missing", "schedule-late", "--power", "--lanes", "float64"]) == 0
    assert "3 of 3 injections of 2 mutations caught" in capsys.readouterr().out


@pytest.mark.slow
def test_a_family_of_training(capsys):
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

    monkeypatch.setattr(
        power, "chosen", lambda names, lanes: [("without a mask", ("scale-missing", "mask-missing"))]
    )
    monkeypatch.setitem(power.FIXTURES, "without a mask", of_row("attention", ("plain",)))
    assert main(["verify", "--power", "--lanes", "float64"]) == 1
    assert "MISSED, without effect" in capsys.readouterr().out
