"""The known faults that may explain a difference, each with the error that it leaves."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from flax import nnx

from jax_attn.parity.diagnosing.diagnosis import Candidate
from jax_attn.parity.diagnosing.trials import Trial
from jax_attn.parity.faults import FAULTS, Fault, base_fault, eps_fault, plant
from jax_attn.parity.faults.precision import PLANTERS, one_weight
from jax_attn.parity.faults.weights import variants
from jax_attn.parity.tracing.divergence import Divergence
from jax_attn.parity.tracing.trace import Progress

Tried = tuple[Fault, Candidate]

# So many weights are tried one by one below submodules that are right, and no more.
MANY_WEIGHTS = 64


def candidates_of(
    trial: Trial,
    where: Divergence,
    right: Sequence[str],
    faults: Sequence[Fault] | None,
    progress: Progress,
) -> Iterator[Tried]:
    """Every fault that fits the module at fault, with the error that it leaves there.

    Args:
        trial: runs torch with a fault.
        where: the module at fault.
        right: its submodules that are right.
        faults: those to try; None is all that are known.
        progress: called with the name of each.
    """
    target = trial.sides.torch.get_submodule(where.torch_path)
    for fault in _fitting(trial, where, target, right) if faults is None else faults:
        try:
            if not fault.fits(target):
                continue
            progress(fault.name)
            yield from tried_with(fault, trial)
        except Exception:  # it does not fit after all
            continue


def tried_with(fault: Fault, trial: Trial) -> Iterator[Tried]:
    """The fault as a candidate, if it acts on the trial's inputs."""
    planted = plant(fault, trial.sides.torch, trial.divergence.torch_path, share_weights=True)
    error = trial.of(planted)
    if planted.acts.words:
        flax, torch = (", ".join(dict.fromkeys(words)) for words in zip(*planted.acts.words, strict=True))
        explains = bool(error <= trial.bound)
        yield fault, Candidate(fault.name, fault.summary, fault.setting, flax, torch, error, explains)


def _fitting(trial: Trial, where: Divergence, target: Any, right: Sequence[str]) -> Iterator[Fault]:
    """Every known fault that shows in the trial's lane and direction, in code that may be wrong."""
    backward, training = where.direction == "backward", trial.lane.training
    rest = _without(target, right)
    for fault in _all(trial, target, rest):
        of_gradients = fault.setting.startswith("gradient")
        if (of_gradients and not backward) or (fault.lane == "dropout" and not training):
            continue
        if fault.family == "models" or fault.setting in AROUND or fault.fits(rest):
            yield fault


# Faults of what is done with submodules, which may all be right; others are sought in what may be wrong.
AROUND = ("axes", "normalisation", "norm placement", "skip connection", "fused q, k, v")


def _without(module: Any, right: Sequence[str]) -> Any:
    """The module without some of its submodules: only to be looked at."""
    rest = copy.copy(module)
    rest._modules = {
        name: _without(child, [path[len(name) + 1 :] for path in right if path.startswith(f"{name}.")])
        for name, child in module._modules.items()
        if child is not None and name not in right
    }
    return rest


def _all(trial: Trial, target: Any, rest: Any) -> Iterator[Fault]:
    """Every known fault; those of single weights for each of them; the eps and rotary bases that Flax has."""
    single = variants(rest)
    yield from (fault for fault in FAULTS.values() if fault.name not in {each.name for each in single})
    yield from single
    weights = [key for key, parameter in rest.named_parameters() if parameter.ndim > 1]
    if sum(parameter.ndim > 1 for parameter in target.parameters()) > 1:
        yield from (one_weight(FAULTS[name], key) for name in PLANTERS for key in weights)
    numbers = set(_numbers(trial.sides.flax))
    known = {1e-5, 1e-6, 1e-12, 0.0}
    yield from map(eps_fault, sorted(value for value in numbers - known if 0 < value <= 1e-2))
    yield from map(base_fault, sorted(value for value in numbers - {5e5, 1e4} if value >= 100))


def _numbers(flax: nnx.Module) -> Iterator[float]:
    """Numbers that a Flax module holds: an eps, or the base of rotary frequencies, under whatever name."""
    for _, node in nnx.iter_modules(flax, graph=True):
        for value in vars(node).values():
            if isinstance(value, float):
                yield value


def faults_of_weights(trial: Trial, where: Divergence, right: Sequence[str]) -> list[Fault]:
    """The faults of single weights below submodules that are right, unless they are too many to try."""
    target = trial.sides.torch.get_submodule(where.torch_path)
    known = sum(1 for _ in variants(_without(target, right)))
    found = [fault for fault in variants(target) if not fault.setting.startswith("gradient")]
    return found if len(found) - known <= MANY_WEIGHTS else []
