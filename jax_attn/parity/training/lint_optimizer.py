"""What an optax chain does otherwise than a torch optimizer, found without any training.

Both get the same gradients and the same parameters, step by step. Where their updates agree, there is nothing
to report. Where they do not, the settings that torch's optimizer holds are changed until they make
what the chain made, in every step and to the last digits: what had to be changed is what differs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import optax

from jax_attn.parity import tolerances
from jax_attn.parity.text import word
from jax_attn.parity.training.optimizer_fit import fitted, numbers_in
from jax_attn.parity.training.optimizer_probe import TorchRun, draw_probe, run_flax, run_torch
from jax_attn.parity.training.optimizer_settings import Probe, Settings, directions, of_torch

STEPS = 12

# The largest gradients, and so sizes at which clipping shows, at which little does, and at which eps does.
SIZES = (1e6, 30.0, 1e-5)

SHAPES: dict[str, tuple[int, ...]] = {"bias": (5,), "kernel": (3, 4)}


@dataclass(frozen=True)
class Finding:
    """A setting that differs.

    Attributes:
        setting: torch's name of it, "learning rate", or "unknown".
        flax: its value in optax's chain, as found out.
        torch: its value in torch.
    """

    setting: str
    flax: Any
    torch: Any

    def __str__(self) -> str:
        return f"{self.setting}: flax {word(self.flax)}, torch {word(self.torch)}"


def lint_optimizer(
    flax_optimizer: optax.GradientTransformation,
    torch_optimizer: Any,
    params: Mapping[str, Any] | None = None,
    *,
    clip: tuple[Any, Any] = (None, None),
    seed: int = 0,
    steps: int = STEPS,
) -> list[Finding]:
    """What differs between an optax chain and a torch optimizer; nothing if they do the same.

        lint_optimizer(optax.adamw(1e-3), lambda params: torch.optim.AdamW(params, 1e-3))
        # [weight_decay: flax 0.0001, torch 0.01]

    Some steps in float64, with gradients of three sizes. A difference that shows later only, such as the end
    of a schedule, is not seen.

    Args:
        flax_optimizer: an optax transformation.
        torch_optimizer: a function that takes parameters and returns a torch optimizer, or one and its
            scheduler; or an optimizer with one group.
        params: a dict of arrays whose shapes and names both get, for chains that go by them; a matrix
            "kernel" and a vector "bias" if not given. torch gets them in the dict's order of keys, sorted.
        clip: as in `compare_training`.
        seed: of the gradients.
        steps: how many.

    Raises:
        ValueError: torch's optimizer has several groups or a scheduler, and is not given as a function, or
            the scheduler goes by a metric; or `params` is nested.
    """
    nested = [name for name, value in (params or {}).items() if isinstance(value, Mapping)]
    if nested:
        raise ValueError(f"params must be a flat dict of arrays, got a dict in {', '.join(nested)}")
    shapes = {name: np.shape(value) for name, value in params.items()} if params else SHAPES
    shapes = dict(sorted(shapes.items()))
    probes = [draw_probe(shapes, size, steps, seed + number) for number, size in enumerate(SIZES)]
    runs = [run_torch(torch_optimizer, clip[1], probe, shapes) for probe in probes]
    chain = flax_optimizer if clip[0] is None else optax.chain(clip[0], flax_optimizer)
    updates = run_flax(chain, probes, shapes)
    if all(_same(probe, run.updates, ours) for probe, run, ours in zip(probes, runs, updates, strict=True)):
        return []
    settings = of_torch(runs[0].optimizer, (_max_norm(probes, runs), 1e-6))
    name = type(runs[0].optimizer).__name__
    if settings is None or not all(map(_made_by, [settings] * len(probes), probes, runs)):
        what = f"{name}, or its groups, clipping or momentum, which are not known here"
        return [Finding("unknown", "other updates", what)]
    together = Probe(
        np.stack([probe.params for probe in probes], 1),
        np.stack([p.grads for p in probes], 1),
        probes[0].tensor,
    )
    known = numbers_in(chain.init, chain.update)
    found = fitted(settings, list(shapes.values()), together, np.stack(updates, 1), known)
    if found is None:
        return [Finding("unknown", "other updates than any settings that were tried make", name)]
    return [*_differences(settings, found[0]), *_rates(found[1], runs[0].rates)]


def _same(probe: Probe, theirs: np.ndarray, ours: np.ndarray) -> bool:
    """Whether two lists of updates agree in every step, up to the rounding of torch's parameters."""
    apart = np.abs(ours - theirs) - 1e-15 * np.abs(probe.params).max(axis=1, keepdims=True)
    return bool((apart <= tolerances.UPDATE * np.abs(theirs).max(axis=1, keepdims=True)).all())


def _made_by(settings: Settings, probe: Probe, run: TorchRun) -> bool:
    """Whether these settings are what torch's optimizer does."""
    made = [-rate * way for rate, way in zip(run.rates, directions(settings, probe), strict=True)]
    return _same(probe, run.updates, np.stack(made))


def _max_norm(probes: Sequence[Probe], runs: Sequence[TorchRun]) -> float:
    """The norm that torch clips to; inf where it never does."""
    for probe, run in zip(probes, runs, strict=True):
        raw, clipped = np.linalg.norm(probe.grads, axis=1), np.linalg.norm(run.seen, axis=1)
        if (clipped < raw * (1 - 1e-9)).any():
            step = int(np.argmin(clipped / raw))
            return float(f"{clipped[step] * (raw[step] + 1e-6) / raw[step]:.10g}")
    return math.inf


def _differences(torch: Settings, flax: Settings) -> list[Finding]:
    names = [name for name in Settings.__dataclass_fields__ if getattr(torch, name) != getattr(flax, name)]
    if not flax.weight_decay:  # what does not decay may do so in any way
        names = [name for name in names if name not in ("decayed", "decoupled")]
    return [Finding(name, getattr(flax, name), getattr(torch, name)) for name in names]


def _rates(flax: Sequence[float], torch: Sequence[float]) -> list[Finding]:
    """What the learning rates of both have to do with each other."""

    def same(ours: Sequence[float], theirs: Sequence[float]) -> bool:
        return np.allclose(ours, theirs, rtol=1e-8, atol=1e-12 * max(map(abs, theirs), default=0.0))

    if same(flax, torch):
        return []
    ours, theirs = ([float(f"{rate:.7g}") for rate in rates] for rates in (flax, torch))
    if len(set(ours)) == len(set(theirs)) == 1:
        return [Finding("learning rate", ours[0], theirs[0])]
    if same(flax[:-1], torch[1:]):
        return [Finding("learning rate", f"one step ahead: {ours[:4]}...", f"{theirs[:4]}...")]
    if same(flax[1:], torch[:-1]):
        return [Finding("learning rate", f"one step behind: {ours[:4]}...", f"{theirs[:4]}...")]
    step = next(k for k, (a, b) in enumerate(zip(flax, torch, strict=True)) if not same([a], [b]))
    return [Finding(f"learning rate of step {step}", ours[step], theirs[step])]
