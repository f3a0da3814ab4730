"""What an optax chain does otherwise than a torch optimizer, told without any training.

Both get the same gradients and the same parameters, step by step; the parameters are set, not trained, so an
update is the learning rate times something that does not depend on it. That something is computed from the
settings that torch's optimizer tells of itself, then with one of them changed, then two, until it is what the
chain gave, in every step and to the last digits: that change is the cause. If none is, the cause is unknown.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_attn.parity import bounds
from jax_attn.parity.optimizer_settings import Probe, Settings, alternatives, directions, of_torch
from jax_attn.weights.tensors import as_numpy

STEPS = 12

# The largest gradients, and so sizes at which clipping shows, and at which eps does.
SIZES = (30.0, 1e-5)

# How many settings may differ at once.
CHANGES = 3

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
        return f"{self.setting}: flax {_word(self.flax)}, torch {_word(self.torch)}"


def lint_optimizer(
    flax_optimizer: optax.GradientTransformation,
    torch_optimizer: Any,
    params: Mapping[str, Any] | None = None,
    *,
    clip: tuple[Any, Any] = (None, None),
    seed: int = 0,
) -> list[Finding]:
    """What differs between an optax chain and a torch optimizer; nothing if they do the same.

        lint_optimizer(optax.adamw(1e-3), lambda params: torch.optim.AdamW(params, 1e-3))
        # [weight_decay: flax 0.0001, torch 0.01]

    Twelve steps in float64, with gradients of two sizes. A difference that shows later only, such as the end
    of a schedule, is not seen.

    Args:
        flax_optimizer: an optax transformation.
        torch_optimizer: a function that takes parameters and returns a torch optimizer, or one and its
            scheduler; or an optimizer with one group.
        params: a dict of arrays whose shapes and names both get, for chains that go by them; a matrix
            "kernel" and a vector "bias" if not given. torch gets them in the dict's order of keys, sorted.
        clip: as in `compare_training`.
        seed: of the gradients.

    Raises:
        ValueError: torch's optimizer has several groups, and is not given as a function.
    """
    shapes = {name: np.shape(value) for name, value in params.items()} if params else SHAPES
    shapes = dict(sorted(shapes.items()))
    probes = [_probe(shapes, size, seed + number) for number, size in enumerate(SIZES)]
    settings, rates, agrees = _of_torch(torch_optimizer, clip[1], probes, shapes)
    chain = flax_optimizer if clip[0] is None else optax.chain(clip[0], flax_optimizer)
    updates = _of_flax(chain, probes, shapes)
    if settings is None or not agrees:
        return [Finding("unknown", "not looked for", "an optimizer that is not known here")]
    for changed in _changed(settings, list(shapes.values())):
        found = _explained(changed, probes, updates)
        if found is not None:
            return [*_differences(settings, found[0]), *_rates(found[1], rates)]
    return [Finding("unknown", "none of the settings that were tried", settings)]


def _probe(shapes: Mapping[str, tuple[int, ...]], size: float, seed: int) -> Probe:
    rng = np.random.default_rng([seed, 5])
    sizes = [math.prod(shape) for shape in shapes.values()]
    shape = (STEPS, sum(sizes))
    grads = size * np.exp(rng.uniform(-5, 0, shape)) * rng.choice([-1.0, 1.0], shape)
    return Probe(rng.normal(size=shape), grads, np.repeat(np.arange(len(sizes)), sizes))


def _tensors(flat: np.ndarray, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])[:-1]
    parts = zip(shapes.items(), np.split(flat, ends), strict=True)
    return {name: part.reshape(shape) for (name, shape), part in parts}


def _of_flax(
    tx: optax.GradientTransformation, probes: Sequence[Probe], shapes: Mapping[str, Any]
) -> list[np.ndarray]:
    """The updates of every step, of each probe."""
    tx = optax.with_extra_args_support(tx)

    def step(state: Any, given: Any) -> Any:
        updates, state = tx.update(given[1], state, given[0])
        return state, updates

    @jax.jit
    def run(params: Any, grads: Any) -> Any:
        state = tx.init({name: leaf[0] for name, leaf in params.items()})
        return jax.lax.scan(step, state, (params, grads))[1]

    with jax.enable_x64(True):
        found = [run(*(_stacked(rows, shapes) for rows in (probe.params, probe.grads))) for probe in probes]
        flat = [[np.asarray(updates[name]).reshape(STEPS, -1) for name in shapes] for updates in found]
        return [np.concatenate(parts, axis=1) for parts in flat]


def _stacked(rows: np.ndarray, shapes: Mapping[str, Any]) -> dict[str, jax.Array]:
    """Each tensor of every step."""
    steps = [_tensors(row, shapes) for row in rows]
    return {name: jnp.stack([tensors[name] for tensors in steps]) for name in shapes}


def _of_torch(
    given: Any, clip: Any, probes: Sequence[Probe], shapes: Mapping[str, Any]
) -> tuple[Settings | None, list[float], bool]:
    """The settings, the rate of every step, and whether these are what the optimizer does."""
    import torch

    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        runs = [_torch_run(given, clip, probe, shapes) for probe in probes]
    finally:
        torch.set_default_dtype(default)
    optimizer, rates, _, seen = runs[0]
    max_norm = math.inf
    raw, clipped = np.linalg.norm(probes[0].grads, axis=1), np.linalg.norm(seen, axis=1)
    if (clipped < raw * (1 - 1e-9)).any():
        step = int(np.argmin(clipped / raw))
        max_norm = float(f"{clipped[step] * (raw[step] + 1e-6) / raw[step]:.10g}")
    settings = of_torch(optimizer, (max_norm, 1e-6))
    if settings is None:
        return None, rates, False
    agrees = all(
        np.abs(update + rate * d).max() <= bounds.UPDATE * np.abs(update).max() + 1e-15 * np.abs(p).max()
        for (_, rates, updates, _), probe in zip(runs, probes, strict=True)
        for rate, update, d, p in zip(rates, updates, directions(settings, probe), probe.params, strict=True)
    )
    return settings, rates, agrees


def _torch_run(given: Any, clip: Any, probe: Probe, shapes: Mapping[str, Any]) -> tuple[Any, Any, Any, Any]:
    """The optimizer, its rates, its updates, and the gradients that it saw."""
    import torch

    parameters = [torch.nn.Parameter(torch.tensor(p)) for p in _tensors(probe.params[0], shapes).values()]
    optimizer, scheduler = _built(given, parameters)
    rates, updates, seen = [], [], []
    for p, g in zip(probe.params, probe.grads, strict=True):
        values = zip(parameters, _tensors(p, shapes).values(), _tensors(g, shapes).values(), strict=True)
        for parameter, value, gradient in values:
            parameter.data = torch.tensor(value)
            parameter.grad = torch.tensor(gradient)
        if clip is not None:
            clip(parameters)
        seen.append(np.concatenate([as_numpy(q.grad).ravel() for q in parameters]))
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        updates.append(np.concatenate([q.detach().numpy().ravel() for q in parameters]) - p)
    return optimizer, rates, np.stack(updates), np.stack(seen)


def _built(given: Any, parameters: list[Any]) -> tuple[Any, Any]:
    if not hasattr(given, "param_groups"):
        built = given(parameters)
        return built if isinstance(built, tuple) else (built, None)
    if len(given.param_groups) != 1:
        raise ValueError(
            "torch_optimizer must be a function that takes parameters, or have one group, "
            f"got {len(given.param_groups)} groups"
        )
    from jax_attn.parity.training_torch import rebuilt

    return rebuilt(given, {}, parameters), None


def _changed(settings: Settings, shapes: Sequence[tuple[int, ...]]) -> Iterator[Settings]:
    """The settings, those with one change, with two, and so on; each once."""
    changes = alternatives(settings, shapes)
    seen = set()
    for count in range(CHANGES + 1):
        for chosen in itertools.combinations(changes, count):
            fields = [name for change in chosen for name in change]
            if len(fields) == len(set(fields)):
                candidate = replace(settings, **{k: v for change in chosen for k, v in change.items()})
                if candidate not in seen:
                    seen.add(candidate)
                    yield candidate


def _explained(
    settings: Settings, probes: Sequence[Probe], updates: Sequence[np.ndarray]
) -> tuple[Settings, list[float]] | None:
    """The settings and the rate of every step, if they make these updates."""
    if math.isnan(settings.weight_decay):
        settings = _with_decay(settings, probes[0], updates[0])
    rates: list[list[float]] = []
    for probe, given in zip(probes, updates, strict=True):
        own = []
        for direction, update in zip(directions(settings, probe), given, strict=True):
            rate = _rate(direction, update)
            if rate is None:
                return None
            own.append(rate)
        rates.append(own)
    same = all(abs(a - b) <= 1e-9 * max(abs(a), abs(b)) for a, b in zip(*rates, strict=True))
    return (settings, rates[0]) if same else None


def _rate(direction: np.ndarray, update: np.ndarray) -> float | None:
    """The rate that makes the update of the direction; None if there is none."""
    largest = float(np.abs(update).max())
    if not largest:
        return 0.0
    square = float(direction @ direction)
    rate = -float(update @ direction) / square if square else math.nan
    apart = float(np.abs(update + rate * direction).max())
    return rate if apart <= bounds.UPDATE * largest else None


def _with_decay(settings: Settings, probe: Probe, updates: np.ndarray) -> Settings:
    """With the decay that the first update tells, where it is added as it is."""
    plain = replace(settings, weight_decay=0.0)
    step = next((k for k, update in enumerate(updates) if update.any()), None)
    if step is None or not (settings.decoupled or settings.kind == "sgd"):
        return plain
    direction = next(itertools.islice(directions(plain, probe), step, None))
    decay = probe.params[step] * np.asarray(settings.decayed, float)[probe.tensor]
    (rate, share), *_ = np.linalg.lstsq(np.stack([direction, decay], 1), -updates[step], rcond=None)
    measured = share / rate if rate else 0.0
    return replace(plain, weight_decay=float(f"{measured:.9g}") if abs(measured) > 1e-12 else 0.0)


def _differences(torch: Settings, flax: Settings) -> list[Finding]:
    names = [name for name in Settings.__dataclass_fields__ if getattr(torch, name) != getattr(flax, name)]
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


def _word(value: Any) -> str:
    return f"{value:.7g}" if isinstance(value, float) else str(value)
