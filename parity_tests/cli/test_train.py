import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from jax_attn.cli import train
from jax_attn.cli.main import main

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_it_says_what_can_be_trained(capsys, arguments):
    assert main(["train", *arguments]) == 0
    shown = capsys.readouterr().out
    assert all(f"jax-attn train {name}" in shown for name in train.EXAMPLES)


def test_a_name_that_is_not_there_is_refused(capsys):
    assert main(["train", "clasifier"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "train must be followed by one of classifier, masked-lm, lm, translator, got 'clasifier'" in line


def test_a_program_reads_its_own_options(capsys):
    assert main(["train", "classifier", "--steps", "0"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("jax-attn train classifier: --steps must be from 1 to")


def test_the_programs_are_found_inside_of_the_package_too(tmp_path, monkeypatch):
    package = tmp_path / "jax_attn"
    monkeypatch.setattr(train, "PACKAGE", package)
    with pytest.raises(FileNotFoundError, match=r"neither inside of .*jax_attn nor beside it"):
        train.examples_folder()
    inside = package / "examples"
    inside.mkdir(parents=True)
    (inside / "train_classifier.py").write_text("HERE = __file__")
    assert train.examples_folder() == inside
    monkeypatch.delitem(sys.modules, "train_classifier", raising=False)
    assert str(inside / "train_classifier.py") == train.load_example("train_classifier").HERE
    monkeypatch.delitem(sys.modules, "train_classifier")


@pytest.mark.slow
def test_the_wheel_carries_the_programs(tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "-w", tmp_path, ROOT], check=True, capture_output=True, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    with ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if name.startswith("jax_attn/examples/")}
    assert names == {f"jax_attn/examples/{path.name}" for path in (ROOT / "examples").glob("*.py")}
    assert "jax_attn/examples/train_classifier.py" in names
