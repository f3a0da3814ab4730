"""The settings that make given updates of given gradients, found from those of another optimizer.

What is one of a few (the kind, whether decay is decoupled, ...) is tried, with fewer changes first. What is a
number is fitted by least squares, beginning at the other's, and then made as round as the updates allow. The
learning rate of each step is whatever fits best.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from jax_attn.parity import tolerances
from jax_attn.parity.training.optimizer_settings import Probe, Settings, directions

# How many of the settings that are tried may differ at once.
CHANGES = 2

# Of those with as many changes, this many are fitted: the ones that are nearest before.
PROMISING = 10

# How often a fit may look at its slopes.
EVALUATIONS = 20


@dataclass(frozen=True)
class _Number:
    """A setting that is fitted: how it is read and set, on which scale, and where the fit may begin."""

    name: str
    read: Callable[[Settings], float]
    change: Callable[[Settings, float], Settings]
    to_scale: Callable[[float], float]
    from_scale: Callable[[float], float]
    starts: tuple[float, ...]


def _plain(name: str, *starts: float) -> _Number:
    return _Number(
        name,
        lambda s: getattr(s, name),
        lambda s, x: replace(s, **{name: x}),
        lambda x: x,
        lambda x: x,
        starts,
    )


def _share(name: str) -> _Number:
    """A share that is kept from step to step, fitted as the logarithm of what is not."""
    return replace(
        _plain(name, 0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 0.9999),
        to_scale=lambda x: math.log(max(1 - x, 1e-9)),
        from_scale=lambda u: 1 - math.exp(min(max(u, math.log(1e-9)), 1.0)),
    )


def _beta(place: int) -> _Number:
    def change(s: Settings, x: float) -> Settings:
        return replace(s, betas=(x, s.betas[1]) if place == 0 else (s.betas[0], x))

    return replace(_share("betas"), read=lambda s: s.betas[place], change=change)


def _positive(name: str, *starts: float) -> _Number:
    return replace(
        _plain(name, *starts),
        to_scale=lambda x: math.log(max(x, 1e-30)),
        from_scale=lambda u: math.exp(min(max(u, -80.0), 80.0)),
    )


def _numbers(s: Settings) -> list[_Number]:
    """The numbers that settings of this structure have."""
    found = [_plain("weight_decay", 1e-3, 0.1)]
    if s.max_norm < math.inf:
        found.append(_positive("max_norm", 1e-2, 1.0, 1e2, 1e4))
    if s.kind == "sgd":
        return [*found, _share("momentum"), _plain("dampening", 0.5)]
    found.append(_positive("eps_root" if s.eps_root else "eps", 1e-16, 1e-12, 1e-8, 1e-4))
    if s.kind == "adagrad":
        return [*found, _positive("initial_accumulator_value", 1e-20, 0.1)]
    if s.kind == "rmsprop":
        return [*found, _share("alpha"), _share("momentum")]
    found += [_beta(0), _beta(1)]
    return [*found, _share("momentum_decay")] if s.kind == "nadam" else found


def fitted(
    settings: Settings, shapes: Sequence[tuple[int, ...]], probe: Probe, updates: np.ndarray
) -> tuple[Settings, list[float]] | None:
    """The settings nearest to `settings` that make these updates, with the rate of every step; or None."""
    for count in range(CHANGES + 1):
        starts = [_begun(start, probe, updates) for start in _structures(settings, shapes, count)]
        for _, begun in sorted(starts, key=lambda start: start[0])[:PROMISING]:
            few = begun[: None if count == 0 else 1]
            fits = (_fit(start, _numbers(start), probe, updates) for start in few)
            found = next((fit for fit in fits if explained(fit, probe, updates) is not None), None)
            if found is not None:
                found = _rounded(found, settings, probe, updates)
                rates = explained(found, probe, updates)
                return None if rates is None else (found, rates)
    return None


def explained(s: Settings, probe: Probe, updates: np.ndarray) -> list[float] | None:
    """The rate of every step, if the settings make these updates; rates below 0 are those of maximize."""
    rates, apart = _residuals(s, probe, updates)
    return rates if np.max(np.abs(apart)) <= tolerances.UPDATE and max(rates) >= 0 else None


def _residuals(s: Settings, probe: Probe, updates: np.ndarray) -> tuple[list[float], np.ndarray]:
    """The best rate of every step, and how far each number is from its update, over the largest."""
    sizes = np.abs(updates).max(axis=-1, keepdims=True)
    sizes[sizes == 0] = 1.0
    rates, found = [], []
    try:
        with np.errstate(all="ignore"):
            ways = list(directions(s, probe))
    except (ArithmeticError, ValueError):  # a beta of 1
        return [math.nan], np.full(updates.size, 1e3)
    with np.errstate(all="ignore"):
        for way, update, size in zip(ways, updates, sizes, strict=True):
            way, update = (way / size).ravel(), (update / size).ravel()
            square = float(way @ way)
            rates.append(-float(update @ way) / square if square and update.any() else 0.0)
            found.append(update + rates[-1] * way)
    return rates, np.nan_to_num(np.concatenate(found), nan=1e3, posinf=1e3, neginf=-1e3)


def _begun(s: Settings, probe: Probe, updates: np.ndarray) -> tuple[float, list[Settings]]:
    """Where a fit may begin: with the best change of one number after the other, or of any one, or with none.

    The error of the first of them comes before.
    """

    def best_of(s: Settings, numbers: Sequence[_Number]) -> tuple[float, Settings]:
        changed = [s, *(number.change(s, start) for number in numbers for start in number.starts)]
        errors = [float(np.sum(_residuals(each, probe, updates)[1] ** 2)) for each in changed]
        return min(errors), changed[int(np.argmin(errors))]

    numbers = _numbers(s)
    best, found = best_of(s, numbers)
    for _ in range(2):
        before = best
        best, found = best_of(found, numbers)
        if not best < before:
            break
    return best, [found, *(best_of(s, [number])[1] for number in numbers), s]


def _fit(s: Settings, numbers: Sequence[_Number], probe: Probe, updates: np.ndarray) -> Settings:
    """The numbers that fit best, from those of `s` on."""
    if not numbers or explained(s, probe, updates) is not None:
        return s

    def at(values: np.ndarray) -> Settings:
        found = s
        for number, value in zip(numbers, values, strict=True):
            found = number.change(found, number.from_scale(float(value)))
        return found

    start = np.array([number.to_scale(number.read(s)) for number in numbers])
    exactly: dict[str, Any] = dict(
        xtol=1e-15, ftol=1e-15, gtol=1e-15, max_nfev=EVALUATIONS * (len(start) + 1)
    )
    return at(least_squares(lambda x: _residuals(at(x), probe, updates)[1], start, method="lm", **exactly).x)


def _rounded(s: Settings, torch: Settings, probe: Probe, updates: np.ndarray) -> Settings:
    """The same with every number torch's, or none, or as short as may be; the others are fitted anew."""
    numbers = _numbers(s)
    for place, number in enumerate(numbers):
        for simple in _simpler(number, number.read(s), number.read(torch)):
            candidate = _fit(number.change(s, simple), numbers[place + 1 :], probe, updates)
            if explained(candidate, probe, updates) is not None:
                s = candidate
                break
    return s


def _simpler(number: _Number, value: float, torch: float) -> Iterator[float]:
    yield torch
    yield math.inf if number.name == "max_norm" else 0.0
    yield from (float(f"{value:.{digits}g}") for digits in range(1, 13))


def _structures(s: Settings, shapes: Sequence[tuple[int, ...]], count: int) -> Iterator[Settings]:
    """The settings with so many changes of what is no number, each once."""
    for chosen in itertools.combinations(_changes(s, shapes), count):
        fields = [name for change in chosen for name in change]
        if len(fields) == len(set(fields)):
            yield replace(s, **{name: value for change in chosen for name, value in change.items()})


def _changes(s: Settings, shapes: Sequence[tuple[int, ...]]) -> list[dict[str, Any]]:
    """Single changes of what is no number, each as the fields that it changes; the likely ones first."""
    found: list[dict[str, Any]] = [{"decoupled": not s.decoupled}]
    if s.kind != "sgd":
        found.append({"eps": 0.0, "eps_root": max(s.eps, 1e-12)})
    found.append({"max_norm": math.inf if s.max_norm < math.inf else 1.0})
    if s.max_norm < math.inf:
        found.append({"norm_eps": 0.0})
    matrices = tuple(len(shape) > 1 for shape in shapes)
    found += [{"decayed": tuple(True for _ in shapes)}, {"decayed": matrices}]
    if s.kind in ("sgd", "adam"):
        found.append({"nesterov": not s.nesterov})
    if s.kind in ("adam", "nadam", "radam"):
        found += [{"corrected": not s.corrected}, {"amsgrad": not s.amsgrad}]
        found += [{"kind": kind} for kind in ("adam", "nadam", "radam", "sgd") if kind != s.kind]
        found += [{"kind": "adam", "nesterov": True}] if s.kind != "adam" else []
    if s.kind == "sgd":
        found.append({"kind": "adam"})
    if s.kind == "rmsprop":
        found.append({"centered": not s.centered})
    if s.kind == "adagrad" and s.lr_decay:
        found.append({"lr_decay": 0.0})
    return [*found, {"maximize": not s.maximize}]
