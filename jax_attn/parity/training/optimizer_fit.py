"""The settings that make given updates of given gradients, found from those of another optimizer.

Every number that a chain computes with stands somewhere in it: in a closure, an attribute, a constant of its
code. So the numbers are read, whatever they are called, and tried in every place where a setting of that size may
stand; what is one of a few (the kind, whether decay is decoupled, ...) is tried too, with fewer changes first.
What makes the updates to the last digits is what the chain does. The learning rate of each step is what fits best.
"""

import inspect
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from jax_attn.parity import tolerances
from jax_attn.parity.training.optimizer_settings import Probe, Settings, directions

# How many of the settings that are tried may differ at once.
CHANGES = 2

# Of those with as many changes, this many are looked at closely: the ones that are nearest before.
PROMISING = 10

# A chain is read this deep.
DEPTH = 12

# Pairs of numbers are changed together where there are no more ways to than these.
WAYS = 400


def numbers_in(*roots: Any) -> list[float]:
    """Return the finite numbers that can be reached from some objects: closures, attributes, code, containers."""
    found: dict[float, None] = {}
    seen: list[Any] = []  # kept alive, or another object might get an id that is known
    known: set[int] = set()
    waiting = [(root, 0) for root in roots]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, bool | str | bytes) or id(value) in known or depth > DEPTH:
            continue
        seen.append(value)
        known.add(id(value))
        if isinstance(value, int | float) or (hasattr(value, "dtype") and np.shape(value) == ()):
            number = np.asarray(value)
            if number.dtype.kind in "iuf" and np.isfinite(number):
                found[float(number)] = None
        else:
            waiting += [(each, depth + 1) for each in _parts(value)]
    return list(found)


def _parts(value: Any) -> list[Any]:
    """What an object is made of, as far as a number may stand in it."""
    if isinstance(value, FunctionType):
        cells = inspect.getclosurevars(value)
        own = [each for each in cells.globals.values() if isinstance(each, int | float)]
        return [*cells.nonlocals.values(), *own, value.__defaults__, value.__kwdefaults__, value.__code__]
    if isinstance(value, CodeType):
        return list(value.co_consts)
    if isinstance(value, MethodType):
        return [value.__func__, value.__self__]
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, tuple | list | set | frozenset):
        return list(value)
    if isinstance(value, partial):
        return [value.func, value.args, value.keywords]
    if hasattr(value, "__wrapped__"):  # jit
        return [value.__wrapped__]
    return [] if isinstance(value, type | ModuleType) else list(getattr(value, "__dict__", {}).values())


def fitted(
    settings: Settings,
    shapes: Sequence[tuple[int, ...]],
    probe: Probe,
    updates: np.ndarray,
    known: Sequence[float],
) -> tuple[Settings, list[float]] | None:
    """The settings nearest to `settings` that make these updates, with the rate of every step; or None.

    Args:
        settings: those to begin with.
        shapes: of the tensors.
        probe: what the updates were made of.
        updates: what the chain made.
        known: the numbers that the chain computes with.
    """
    fit = _Fit(settings, probe, updates, known)
    for changes in range(CHANGES + 1):
        tried = [fit.nearest(s, 1) for s in _structures(settings, shapes, changes)]
        for _, s in sorted(tried, key=lambda each: each[0])[:PROMISING]:
            _, s = fit.nearest(s, 2)
            rates = fit.explained(s)
            if rates is None:
                continue
            for name in fit.candidates(s):  # torch's own wherever it does as well
                back = _with(s, name, _number(settings, name))
                again = fit.explained(back)
                s, rates = (s, rates) if again is None else (back, again)
            return s, rates
    return None


@dataclass(frozen=True)
class _Fit:
    """What is fitted: torch's settings, gradients and parameters, the chain's updates, and its numbers."""

    torch: Settings
    probe: Probe
    updates: np.ndarray
    known: Sequence[float]

    def candidates(self, s: Settings) -> dict[str, tuple[float, ...]]:
        """The numbers that settings of this structure have: torch's own, and those known that may stand there."""
        shares = [x for x in self.known if 0 <= x < 1]
        small = [x for x in self.known if 0 < x <= 1e-2]
        found: dict[str, Sequence[float]] = {"weight_decay": [0.0, *self.known]}
        if s.max_norm < math.inf:
            found["max_norm"] = [x for x in self.known if x > 0]
        if s.kind != "sgd":
            found |= {"eps_root": small} if s.eps_root else {"eps": [0.0, *small]}
        if s.kind == "sgd":
            found |= {"momentum": [0.0, *shares], "dampening": [0.0, *shares]}
        elif s.kind == "adagrad":
            # optax has its eps within the root, as it has the sum
            sums = [float(f"{a + b:.12g}") for a, b in itertools.product(self.known, small)]
            found["initial_accumulator_value"] = [0.0, *(x for x in (*self.known, *sums) if x > 0)]
        elif s.kind == "rmsprop":
            found |= {"alpha": shares, "momentum": [0.0, *shares]}
        else:
            found |= dict.fromkeys(BETAS, shares)
        if s.kind == "nadam":
            found["momentum_decay"] = small
        return {
            name: tuple(dict.fromkeys((_number(self.torch, name), *values))) for name, values in found.items()
        }

    def explained(self, s: Settings) -> list[float] | None:
        """The rate of every step, if the settings make these updates; rates below 0 are those of maximize."""
        rates, apart = self._residuals(s)
        return rates if np.max(np.abs(apart)) <= tolerances.UPDATE and max(rates) >= 0 else None

    def nearest(self, s: Settings, at_once: int) -> tuple[float, Settings]:
        """The error that is left, and the numbers with which it is: changed `at_once` together while that helps."""
        candidates = self.candidates(s)
        best = self._error(s)
        while best > tolerances.UPDATE**2:
            found = s
            for names in itertools.combinations(candidates, min(at_once, len(candidates))):
                if len(names) > 1 and math.prod(len(candidates[name]) for name in names) > WAYS:
                    continue
                for values in itertools.product(*(candidates[name] for name in names)):
                    changed = s
                    for name, value in zip(names, values, strict=True):
                        changed = _with(changed, name, value)
                    left = self._error(changed)
                    if left < best:
                        best, found = left, changed
            if found == s:
                break
            s = found
        return best, s

    def _error(self, s: Settings) -> float:
        return max(float(np.sum(self._residuals(s)[1] ** 2)), tolerances.UPDATE**2)

    def _residuals(self, s: Settings) -> tuple[list[float], np.ndarray]:
        """The best rate of every step, and how far each number is from its update, over the largest."""
        updates = self.updates
        sizes = np.abs(updates).max(axis=-1, keepdims=True)
        sizes[sizes == 0] = 1.0
        rates, found = [], []
        with np.errstate(all="ignore"):
            try:
                ways = list(directions(s, self.probe))
            except (ArithmeticError, ValueError):  # a beta of 1
                return [math.nan], np.full(updates.size, 1e3)
            for way, update, size in zip(ways, updates, sizes, strict=True):
                way, update = (way / size).ravel(), (update / size).ravel()
                square = float(way @ way)
                rates.append(-float(update @ way) / square if square and update.any() else 0.0)
                found.append(update + rates[-1] * way)
        return rates, np.nan_to_num(np.concatenate(found), nan=1e3, posinf=1e3, neginf=-1e3)


BETAS = ("beta1", "beta2")


def _number(s: Settings, name: str) -> float:
    return s.betas[BETAS.index(name)] if name in BETAS else getattr(s, name)


def _with(s: Settings, name: str, value: float) -> Settings:
    if name not in BETAS:
        return replace(s, **{name: value})
    return replace(s, betas=(value, s.betas[1]) if name == "beta1" else (s.betas[0], value))


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
