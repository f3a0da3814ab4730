"""Checkpoints: a run that is killed, cut off or moved elsewhere goes on as if nothing had happened."""

import gc
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_attn.parity.tolerances import SAME_FLOAT32
from jax_attn.training.checkpoint import Checkpoints
from parity_tests.training.tiny import Batches, options, signal_at, train

STEPS = 30


@pytest.fixture(scope="module")
def losses():
    """The losses of the run that is never stopped."""
    return train(options()).losses["jax"]


def state(value: float = 1.0) -> dict[str, Any]:
    return {"w": jnp.full((3, 2), value, jnp.float32), "key": jax.random.key(5), "count": jnp.int32(7)}


def filled(folder: Path, *steps: int, keep: int = 9) -> tuple[Checkpoints, list[str]]:
    said: list[str] = []
    checkpoints = Checkpoints(folder, keep, said.append)
    for step in steps:
        checkpoints.save(step, state(step), notes={"next_batch": step})
    checkpoints.close()
    return checkpoints, said


def test_what_is_saved_comes_back(tmp_path):
    checkpoints, said = filled(tmp_path, 3)
    step, found, notes = checkpoints.restore(state())
    assert (step, notes, said) == (3, {"next_batch": 3}, [])
    np.testing.assert_array_equal(found["w"], state(3)["w"])
    assert jnp.array_equal(jax.random.key_data(found["key"]), jax.random.key_data(state()["key"]))
    assert found["count"] == 7


def test_newest_and_best_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step, score in ((1, 0.5), (2, 0.9), (3, None), (4, 0.7), (5, None), (6, None)):
        checkpoints.save(step, state(), score)
    checkpoints.close()
    assert checkpoints.steps() == [6, 5, 2]


def test_nothing_saved_yet(tmp_path):
    assert Checkpoints(tmp_path / "none").restore(state()) is None


def test_a_save_that_was_cut_off_is_skipped_and_kept(tmp_path):
    checkpoints, said = filled(tmp_path, 1)
    for name in ("2.cut-off", "2.cut-off-2"):  # the second time at this step
        shutil.copytree(tmp_path / "1", tmp_path / "2.orbax-checkpoint-tmp")
        assert checkpoints.restore(state())[0] == 1
        warning = "warning: checkpoint 2 was cut off while it was saved, and is skipped; it is kept as"
        assert said.pop() == f"{warning} {name}"
        assert not said
    checkpoints.save(2, state())
    checkpoints.close()
    assert checkpoints.steps() == [2, 1]
    for name in ("2.cut-off", "2.cut-off-2"):
        assert (tmp_path / name / "state").is_dir()


@pytest.mark.parametrize(
    "damage", ["data", *(pytest.param(damage, marks=pytest.mark.slow) for damage in ("manifest", "empty"))]
)
def test_an_unreadable_checkpoint_is_named_and_kept(damage, tmp_path):
    checkpoints, said = filled(tmp_path, 1, 2)
    if damage == "empty":
        shutil.rmtree(tmp_path / "2" / "state")
    for path in (tmp_path / "2").rglob("manifest.ocdbt" if damage == "manifest" else "d/*"):
        path.write_bytes(path.read_bytes()[:20])
    step, found, _ = checkpoints.restore(state())
    assert step == 1
    assert found["w"][0, 0] == 1
    assert said[0].startswith(f"warning: checkpoint {tmp_path / '2'} cannot be read: ")
    assert (tmp_path / "2.unreadable").is_dir()
    checkpoints.save(2, state())  # it is in nobody's way
    checkpoints.close()
    assert checkpoints.steps() == [2, 1]
    assert (tmp_path / "2.unreadable").is_dir()


@pytest.mark.slow
def test_no_readable_checkpoint_is_an_error(tmp_path):
    checkpoints, _ = filled(tmp_path, 1)
    shutil.rmtree(tmp_path / "1" / "state")
    with pytest.raises(
        ValueError, match=r"none of the checkpoints in .* can be read: 1; they are left as they are"
    ):
        checkpoints.restore(state())
    assert (tmp_path / "1").is_dir()


def test_a_checkpoint_of_another_model(tmp_path):
    checkpoints, _ = filled(tmp_path, 1)
    other = {**state(), "w": jnp.zeros((3, 4)), "more": jnp.zeros(2)}
    with pytest.raises(
        ValueError, match=r"another model .*more is float32\[2\] now, and absent there; w is float32"
    ):
        checkpoints.restore(other)


def test_a_save_that_fails_is_an_error(tmp_path):
    checkpoints, _ = filled(tmp_path / "run", 1)
    (tmp_path / "run").rename(tmp_path / "gone")
    (tmp_path / "run").write_text("")

    def save() -> None:
        checkpoints.save(2, state())
        checkpoints.wait()

    with warnings.catch_warnings():  # of what Orbax had not begun, collected here and not in another test
        warnings.filterwarnings("ignore", "coroutine '.*' was never awaited", RuntimeWarning)
        with pytest.raises(OSError, match="checkpoint 2 cannot be saved in"):
            save()
        del checkpoints
        gc.collect()


def start(out: Path, *flags: str, devices: int = 1, **environment: str) -> subprocess.Popen[str]:
    """The program of `tiny.py`."""
    flags_of_xla = os.environ.get("XLA_FLAGS", "") + f" --xla_force_host_platform_device_count={devices}"
    return subprocess.Popen(
        [sys.executable, "-m", "parity_tests.training.tiny", "--out", str(out), *flags],
        env={**os.environ, "XLA_FLAGS": flags_of_xla, **environment},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(process: subprocess.Popen[str], status: int = 0) -> str:
    """What it printed, once it has ended as it should."""
    printed, _ = process.communicate(timeout=600)
    assert process.returncode == status, printed
    return printed


def resumed(out: Path) -> Any:
    return train(options(out, resume=True))


def test_killed_at_a_step_and_in_a_save(tmp_path, losses):
    """Kill -9, twice: what goes on has the losses of the run that was never killed, bit for bit."""
    out = tmp_path / "out"
    ended(start(out, DEATH="step 15"), -signal.SIGKILL)
    ended(start(out, "--resume", DEATH="save 2"), -signal.SIGKILL)
    batches = Batches()
    result = train(options(out, resume=True), batches)
    assert batches.asked[1] > 8  # the first is looked at to know the data
    assert result.losses["jax"] == losses


@pytest.mark.slow
def test_killed_twenty_times(tmp_path):
    """At random steps, and in the middle of saves."""
    out, steps, randomly = tmp_path / "out", 300, random.Random(0)
    flags = "--steps", str(steps)
    cut_off = done = 0
    for kill in range(20):
        death = f"save {randomly.randint(1, 3)}" if kill % 2 else f"step {done + randomly.randint(3, 20)}"
        printed = ended(start(out, *flags, *(["--resume"] if kill else []), DEATH=death), -signal.SIGKILL)
        cut_off += "was cut off while it was saved" in printed
        done = max([*Checkpoints(out / "checkpoints").steps(), 0])
    assert 0 < done < steps
    assert cut_off > 3
    result = train(options(out, steps=steps, resume=True))
    assert result.losses["jax"] == train(options(steps=steps)).losses["jax"]


@pytest.mark.slow
def test_another_mesh(tmp_path, losses):
    """From 8 x 1 to 2 x 4 devices."""
    out = tmp_path / "out"
    assert "saved after step" in ended(start(out, "--mesh", "data=8", devices=8, STOP="14"))
    ended(start(out, "--mesh", "data=2,fsdp=4", "--resume", devices=8))
    assert_same_losses(out, losses)


@pytest.mark.slow
def test_another_number_of_processes(tmp_path, losses):
    """From one to two, and to one again."""
    out = tmp_path / "out"
    with pytest.raises(SystemExit):
        train(options(out), Batches(at=signal_at(8, signal.SIGTERM)))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    flags = "--resume", "--mesh", "fsdp=2", "--coordinator", address, "--num-processes", "2", "--process-id"
    two = [start(out, *flags, number, STOP="19") for number in ("0", "1")]
    printed = [ended(process) for process in two]
    assert "saved after step" in printed[0]
    assert printed[1].count("step") == 0  # one of them does the talking
    resumed(out)
    assert_same_losses(out, losses)


def assert_same_losses(out: Path, losses: list[float]) -> None:
    from jax_attn.training.journal import Journal

    journal = Journal(out, STEPS)
    journal.close()
    np.testing.assert_allclose(journal.losses["jax"], losses, rtol=0, atol=SAME_FLOAT32)
    assert len(losses) == STEPS
