"""One training step of each example, at its small preset and on its own data, beside the torch twin's."""

import contextlib
import importlib.util
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.comparison import Comparison, contest
from benchmarks.contender import Contender
from jax_attn.training.making import make_trainers, precision
from jax_attn.training.options import TrainingOptions
from jax_attn.training.task import Batch, Task

NAMES = ("Flax, jitted", "torch twin")
EXAMPLES = ("classifier", "masked_lm", "language_model", "translator")
AMONG = 8  # batches, of which the one of middling size is trained on again and again: a size is compiled once


class Planned(NamedTuple):
    """What an example would train."""

    task: Task
    batches: Any
    options: TrainingOptions


def bench_training(
    examples: Sequence[str] = EXAMPLES, *, dropout: bool = True, rounds: int = 7
) -> Iterator[Comparison]:
    """Time steps from the same weights on the same batch; the first losses are compared where there is no dropout.

    Args:
        examples: which of them.
        dropout: whether the step drops out what the preset says; the two frameworks draw different masks.
        rounds: how often each contender is timed.
    """
    for example in examples:
        plan = planned(example)
        batch = middling([plan.batches[step] for step in range(AMONG)])
        with precision(plan.options):
            trainers = {
                name: make_trainers(plan.task, replace(plan.options, framework=framework))[framework]
                for name, framework in zip(NAMES, ("jax", "torch"), strict=True)
            }
            contenders = {
                name: _contender(trainer, batch, compared=not dropout) for name, trainer in trainers.items()
            }
            facts = {"shapes": {name: list(value.shape) for name, value in batch.items()}}
            yield contest(example.replace("_", " "), contenders, rounds=rounds, facts=facts)


def planned(example: str) -> Planned:
    """What the example would train with its first preset; it reads its data, and stops before it begins."""
    path = Path(__file__).parent.parent / "examples" / f"train_{example}.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module: Any = importlib.util.module_from_spec(spec)  # ty: ignore
    spec.loader.exec_module(module)  # ty: ignore

    class Begun(Exception):
        """In place of the training."""

    def fit(task: Task, batches: Any, options: TrainingOptions, *_: Any) -> None:
        raise Begun(Planned(task, batches, options))

    module.fit = fit
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            module.train(next(iter(module.PRESETS.values())))
        except Begun as begun:
            return begun.args[0]
    raise RuntimeError(f"{path.name} ended without a training")


def middling(batches: Sequence[Batch]) -> Batch:
    """The batch of middling size."""
    return sorted(batches, key=lambda batch: sum(value.size for value in batch.values()))[len(batches) // 2]


def _contender(trainer: Any, batch: Batch, compared: bool) -> Contender:
    def losses(loss: Any) -> list[np.ndarray]:
        return [np.asarray(float(loss))]

    return Contender(lambda: trainer.step(batch).loss, losses if compared else None)
