"""What a comparison of trainings can see: mutations are injected into torch's optimizer, schedule or clipping."""

import math
import time
from collections.abc import Callable, Iterable
from typing import Any

from flax import nnx

from jax_attn.parity.mutations.mutation import Mutation
from jax_attn.parity.mutations.training import (
    TorchTraining,
    inject_training,
    training_mutations_for,
)
from jax_attn.parity.power_report import PowerReport, Seen, Trial
from jax_attn.parity.training.compare import Pair, compare_training
from jax_attn.parity.training.report import TrainingReport

LANE = "float64"


def training_power(
    flax_module: nnx.Module,
    torch_module: Any,
    batches: Iterable[Any],
    loss: Pair,
    optimizer: Pair,
    steps: int = 6,
    mutations: Iterable[Mutation] | None = None,
    *,
    clip: Pair = (None, None),
    title: str = "",
    progress: Callable[[str, str], None] = lambda lane, mutation: None,
    **options: Any,
) -> PowerReport:
    """Inject each mutation into torch's side of a training, and compare it with Flax's.

    Args:
        flax_module: any NNX module.
        torch_module: its counterpart; neither is changed.
        batches: as in `compare_training`, and so are `loss` and `clip`.
        loss: the two losses.
        optimizer: as in `compare_training`; torch's is a function that makes it.
        steps: how many; schedules show no mutation before they have moved.
        mutations: those to inject; None is all that fit.
        clip: the two clippings.
        title: what the report is called.
        progress: called with (lane, mutation) before each trial.
        options: further ones of `compare_training`.

    Raises:
        ValueError: torch's optimizer is no function, or what `compare_training` raises.
    """
    started = time.perf_counter()
    batches = list(batches)
    if not callable(optimizer[1]):
        kind = type(optimizer[1]).__name__
        raise ValueError(f"optimizer[1] must be a function that makes torch's optimizer, got a {kind}")
    if mutations is None:
        parameters = [parameter.detach().clone() for parameter in torch_module.parameters()]
        mutations = training_mutations_for(TorchTraining.of(optimizer[1](parameters), clip[1]))

    def trained(make: Any, clipping: Any) -> TrainingReport:
        pairs: dict[str, Any] = {"optimizer": (optimizer[0], make), "clip": (clip[0], clipping)}
        return compare_training(
            flax_module, torch_module, batches, loss, steps=steps, lanes=(LANE,), **pairs, **options
        )

    progress(LANE, "no mutation")
    right = trained(optimizer[1], clip[1])
    trials = []
    for mutation in mutations if right.passed else ():
        progress(LANE, mutation.name)
        make, clipping, hits = inject_training(mutation, optimizer[1], clip[1])
        seen = _seen(trained(make, clipping))
        trials.append(Trial.of(mutation, title, hits, {LANE: seen}))
    return PowerReport(title, trials, right, seconds=time.perf_counter() - started)


def _seen(report: TrainingReport) -> Seen:
    """What the lane saw, by the first thing that differs: what follows is a consequence."""
    failed = report.first_divergence
    error = max((d.error for d in report.deviations), default=0.0) if failed is None else failed.error
    error = math.inf if math.isnan(error) else error
    return Seen(failed is not None, error, error, (), error)
