"""The loop: what it keeps, what it refuses, and how it ends."""

import json
import os
import shutil
import signal
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from flax import nnx

from jax_attn.training import Task, TrainingOptions, fit, loop
from jax_attn.training.journal import Journal
from parity_tests.training import tiny
from parity_tests.training.tiny import Batches, Network, options, signal_at, train


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run to its end, with what it printed left to pytest."""
    out = tmp_path_factory.mktemp("run") / "out"
    saved = []

    def save(model, folder):
        saved.append(model)
        folder.mkdir()

    tokenizer = {"tokenizer.json": "{}"}
    result = train(options(out, profile=1, eval_every=10), save=save, files=tokenizer)
    return out, result, saved


def test_what_a_run_leaves(run):
    out, result, saved = run
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 31))
    assert [line["loss"] for line in steps] == result.losses["jax"]
    assert [line["step"] for line in lines if "held_out" in line] == [10, 20, 30]
    assert np.mean(result.losses["jax"][-5:]) < np.mean(result.losses["jax"][:5])
    assert (out / "tokenizer.json").read_text() == "{}"
    assert (out / "losses.png").read_bytes()[1:4] == b"PNG"
    assert list((out / "tensorboard").iterdir())
    assert list((out / "profile").rglob("*.xplane.pb"))
    assert (out / "model").is_dir()
    newest = sorted(int(path.name) for path in (out / "checkpoints").iterdir())[-2:]
    assert newest == [28, 30]
    mean = result.trainers["jax"].state.ema["second.kernel"]  # what is saved is the running mean
    np.testing.assert_array_equal(saved[0].second.kernel[...], mean)


def test_progress_in_a_pipe(capsys, tmp_path):
    train(options(steps=20, eval_every=10))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("step  1/20  loss ")
    assert any("tokens/s" in line and "left" in line for line in lines)
    assert sum(line.startswith("held out after step") for line in lines) == 2


def test_utilisation_where_the_peak_is_known(capsys, monkeypatch):
    monkeypatch.setattr(loop, "peak_flops", lambda dtype: 1e9)
    train(options(steps=9))
    (last,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step 9/9")]
    rate = float(last.split(" tokens/s")[0].split()[-1].replace(",", "")) / 16  # steps a second
    told = float(last.split("MFU ")[1].split("%")[0]) / 100
    assert told == pytest.approx(rate * 45056 / 1e9, abs=1e-3)


def test_a_module_of_ones_own():
    """Ten lines: a module, a loss, batches. It has the trained weights afterwards."""
    model = Network(nnx.Rngs(0))
    before = np.asarray(model.first.kernel[...])
    result = fit(Task(model=model, loss=tiny.loss), Batches(), TrainingOptions(steps=5, batch_size=16))
    assert not np.array_equal(before, model.first.kernel[...])
    np.testing.assert_array_equal(
        model.first.kernel[...], result.trainers["jax"].state.params["first.kernel"]
    )


def test_the_last_evaluation_is_noted_down_once(tmp_path):
    for _ in range(2):  # a run, and one that goes on after its end
        journal = Journal(tmp_path, done=3)
        journal.evaluation(3, "jax", {"loss": 0.5})
        journal.close()
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 1


def test_another_run_is_not_written_over(run):
    out, _, _ = run
    with pytest.raises(ValueError, match="holds a run already: --resume goes on"):
        train(options(out))


def test_another_configuration_is_named(run):
    out, _, _ = run
    changed = {"learning_rate": 0.5, "eval_every": 7, "batch_size": 32}
    with pytest.raises(
        ValueError, match=r"batch_size is 32, and was 16; learning_rate is 0\.5, and was 0\.01$"
    ):
        train(options(out, resume=True, **changed))


def test_other_data_are_told(run):
    out, _, _ = run
    with pytest.raises(ValueError, match="was started with other data: its first batch differs"):
        train(options(out, resume=True), Batches(spoiled=0))


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file/out cannot be written"):
        train(options(tmp_path / "file" / "out"))


def test_a_full_disk_is_found_before_training(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 1000))
    batches = Batches()
    with pytest.raises(OSError, match=r"4 checkpoints of .* need .* and 1 kB are free"):
        train(options(tmp_path / "out"), batches)
    assert batches.asked == [0]  # to be known again
    assert not (tmp_path / "out").exists()


def test_not_finite(tmp_path):
    """It stops at the step, says which; the checkpoints before it are kept, and none after it was written."""
    out = tmp_path / "out"
    says = (
        r"^step 11: the (loss|norm of the gradient) is nan\. Try a lower --learning-rate .*/checkpoints/10$"
    )
    with pytest.raises(FloatingPointError, match=says):
        train(options(out, save_every=2, keep=3), Batches(spoiled=10))
    kept = sorted(int(path.name) for path in (out / "checkpoints").iterdir())
    assert kept[-1] == 10
    assert json.loads((out / "log.jsonl").read_text().splitlines()[-1])["step"] == 10


def test_stop_signals_save(tmp_path, capsys, run):
    """What goes on has the losses of the run that never stopped, bit for bit; no step is seen twice or skipped."""
    out, done, settings = tmp_path / "out", 0, {"eval_every": 10}
    for number, at in ((signal.SIGTERM, 9), (signal.SIGINT, 21)):
        handler, batches = signal.getsignal(number), Batches(at=signal_at(at, number))
        with pytest.raises(SystemExit) as stopped:
            train(options(out, resume=done > 0, **settings), batches)
        assert stopped.value.code == 0
        assert signal.getsignal(number) is handler
        assert batches.asked[:2] == [0, done]
        done = max(int(path.name) for path in (out / "checkpoints").iterdir())
        assert at - 3 <= done <= at + 1  # batches are made ahead
        last = capsys.readouterr().out.splitlines()[-1]
        assert f"{number.name}: saved after step {done} of 30; the same command with --resume goes on" in last
    batches = Batches()
    result = train(options(out, resume=True, **settings), batches)
    assert batches.asked == [0, *range(done, 30)]
    assert result.losses == run[1].losses
    assert result.figures == run[1].figures


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"steps": 0}, "--steps must be from 1"),
        ({"accumulate": 3}, "--accumulate must divide --batch-size"),
        ({"betas": (0.9, 1.0)}, "--betas"),
        ({"resume": True}, "--resume needs --out"),
        ({"profile": 3}, "--profile needs --out"),
        ({"out": Path("run"), "resume": True, "framework": "both"}, "--framework both keeps none"),
        ({"max_grad_norm": float("nan")}, "--max-grad-norm"),
    ],
)
def test_options_out_of_range(changed, what):
    with pytest.raises(ValueError, match=what):
        options(**changed)


def test_nothing_is_kept_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train(options(steps=2))
    assert os.listdir(tmp_path) == []
    assert Path.cwd() == tmp_path
