"""A training that takes a second, to be stopped, killed and gone on with; as a program, in a process of its own.

    python parity_tests/training/tiny.py --out DIR --steps 30        # the options of TrainingOptions

What the program does besides is in the environment: DEATH="step 17" or "save 2" ends it there by SIGKILL, STOP="17"
asks it to stop at that step by SIGTERM.
"""

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_attn.training import Result, Task, TrainingOptions, fit

WIDTH, CLASSES = 16, 4


class Network(nnx.Module):
    """Someone's own model, with dropout."""

    def __init__(self, rngs: nnx.Rngs):
        self.first = nnx.Linear(WIDTH, 32, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.second = nnx.Linear(32, CLASSES, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.second(self.dropout(jax.nn.tanh(self.first(x))))


def loss(model: Any, batch: Any) -> Any:
    scores = jax.nn.log_softmax(model(batch["x"]))
    return -jnp.take_along_axis(scores, batch["labels"][:, None], axis=1).sum(), len(scores)


def nothing(step: int) -> None:
    """What is done when a step is asked for, by default."""


class Batches:
    """Noise around a centre for each class; the numbers of the steps that were asked for are kept.

    Args:
        rows: of a batch.
        at: what is done when a step is asked for.
        spoiled: the step whose batch has an infinite number.
    """

    def __init__(self, rows: int = 16, at: Any = nothing, spoiled: int | None = None):
        self.rows, self.at, self.spoiled, self.asked = rows, at, spoiled, []

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        self.asked.append(step)
        self.at(step)
        random = np.random.default_rng([3, step])
        labels = random.integers(0, CLASSES, self.rows)
        centres = np.random.default_rng(4).standard_normal((CLASSES, WIDTH))
        x = (centres[labels] + 2 * random.standard_normal((self.rows, WIDTH))).astype(np.float32)
        if step == self.spoiled:
            x[0, 0] = np.inf
        return {"x": x, "labels": labels.astype(np.int32)}


def task(**further: Any) -> Task:
    return Task(lambda: Network(nnx.Rngs(0)), loss, **further)


def options(out: Path | None = None, **changed: Any) -> TrainingOptions:
    settings: dict[str, Any] = {
        "steps": 30,
        "batch_size": 16,
        "save_every": 4,
        "log_every": 3,
        "accumulate": 2,
    }
    return TrainingOptions(out=out, **{**settings, "ema": 0.9, "learning_rate": 0.01, **changed})


def train(settings: TrainingOptions, batches: Batches | None = None, **further: Any) -> Result:
    return fit(task(**further), batches or Batches(), settings, [Batches()[1000]])


def signal_at(wanted: int, number: int) -> Any:
    """At a step, a signal to this process."""
    return lambda step: os.kill(os.getpid(), number) if step == wanted else None


def die_in_save(folder: Path, count: int) -> None:
    """End the process by SIGKILL as soon as the save number `count` is under way."""

    def watch() -> None:
        seen: set[str] = set()
        while True:
            found = os.listdir(folder) if folder.exists() else ()
            seen |= {name for name in found if "orbax-checkpoint-tmp" in name}
            if len(seen) >= count:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.0002)

    threading.Thread(target=watch, daemon=True).start()


def main() -> None:
    import tyro

    given = tyro.cli(TrainingOptions, default=options())
    at = nothing
    what, _, count = os.environ.get("DEATH", "").partition(" ")
    if what == "step":
        at = signal_at(int(count), signal.SIGKILL)
    elif what == "save":
        die_in_save(given.out / "checkpoints", int(count))
    if stop := os.environ.get("STOP"):
        at = signal_at(int(stop), signal.SIGTERM)
    train(given, Batches(at=at))


if __name__ == "__main__":
    main()
