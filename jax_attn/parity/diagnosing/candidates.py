"""The known mutations that may explain a difference, each with the error that it leaves."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

from flax import nnx

from jax_attn.parity.diagnosing.diagnosis import Candidate
from jax_attn.parity.diagnosing.lint_modules import ties_that_differ
from jax_attn.parity.diagnosing.module_settings import HEADS
from jax_attn.parity.diagnosing.trials import Trial
from jax_attn.parity.mutations import MUTATIONS, Mutation, base_mutation, eps_mutation, inject
from jax_attn.parity.mutations.attention import heads_mutation
from jax_attn.parity.mutations.norms import each_left_out
from jax_attn.parity.mutations.precision import PRECISION, one_weight
from jax_attn.parity.mutations.ties import parted_mutation, tied_mutation
from jax_attn.parity.mutations.weights import variants
from jax_attn.parity.tracing.divergence import Divergence
from jax_attn.parity.tracing.trace import Progress

Tried = tuple[Mutation, Candidate]

# So many weights are tried one by one below submodules that are right, and no more.
MANY_WEIGHTS = 64


def candidates_of(
    trial: Trial,
    where: Divergence,
    right: Sequence[str],
    mutations: Sequence[Mutation] | None,
    progress: Progress,
) -> Iterator[Tried]:
    """Every mutation that fits the module that is wrong, with the error that it leaves there.

    Args:
        trial: runs torch with a mutation.
        where: the module that is wrong.
        right: its submodules that are right.
        mutations: those to try; None is all that are known.
        progress: called with the name of each.
    """
    target = trial.sides.torch.get_submodule(where.torch_path)
    for mutation in _fitting(trial, where, target, right) if mutations is None else mutations:
        try:
            if not mutation.fits(target):
                continue
            progress(mutation.name)
            yield from tried_with(mutation, trial)
        except Exception:  # it does not fit after all
            continue


def tried_with(mutation: Mutation, trial: Trial) -> Iterator[Tried]:
    """The mutation as a candidate, if it changes anything on the trial's inputs."""
    at = "" if mutation.whole else trial.divergence.torch_path
    injected = inject(mutation, trial.sides.torch, at, share_weights=True)
    error = trial.of(injected)
    if injected.hits.words:
        flax, torch = (", ".join(dict.fromkeys(words)) for words in zip(*injected.hits.words, strict=True))
        explains = bool(error <= trial.bound)
        yield (
            mutation,
            Candidate(mutation.name, mutation.summary, mutation.setting, flax, torch, error, explains),
        )


def _fitting(trial: Trial, where: Divergence, target: Any, right: Sequence[str]) -> Iterator[Mutation]:
    """Every known mutation that shows in the trial's lane and direction, in code that may be wrong."""
    backward, training = where.direction == "backward", trial.lane.training
    rest = _without(target, right)
    for mutation in _all(trial, target, rest):
        of_gradients = mutation.setting.startswith("gradient")
        if (of_gradients and not backward) or (mutation.lane == "dropout" and not training):
            continue
        if mutation.family == "models" or mutation.setting in AROUND or mutation.fits(rest):
            yield mutation


# Mutations of what is done with submodules, which may all be right; others are sought in what may be wrong.
AROUND = ("axes", "normalisation", "norm placement", "order of branches", "skip connection", "fused q, k, v",
          "QK-norm", "layer scale")  # fmt: skip


def _without(module: Any, right: Sequence[str]) -> Any:
    """The module without some of its submodules, but for those that are functions: only to be looked at."""
    rest = copy.copy(module)
    rest._modules = {
        name: _without(child, [path[len(name) + 1 :] for path in right if path.startswith(f"{name}.")])
        for name, child in module._modules.items()
        if child is not None and (name not in right or not list(child.parameters()))
    }
    return rest


def _all(trial: Trial, target: Any, rest: Any) -> Iterator[Mutation]:
    """Every known mutation; those of single weights for each of them; the eps and rotary bases that Flax has."""
    single = variants(rest)
    yield from (
        mutation for mutation in MUTATIONS.values() if mutation.name not in {each.name for each in single}
    )
    yield from single
    weights = [key for key, parameter in rest.named_parameters() if parameter.ndim > 1]
    if sum(parameter.ndim > 1 for parameter in target.parameters()) > 1:
        yield from (one_weight(mutation, key) for mutation in PRECISION for key in weights)
    yield from each_left_out(target)
    yield from map(heads_mutation, sorted(set(_head_counts(trial.sides.flax))))
    numbers = set(_numbers(trial.sides.flax))
    known = {1e-5, 1e-6, 1e-12, 0.0}
    yield from map(eps_mutation, sorted(value for value in numbers - known if 0 < value <= 1e-2))
    yield from _of_ties(trial)
    yield from map(base_mutation, sorted(value for value in numbers - {5e5, 1e4} if value >= 100))


def _of_ties(trial: Trial) -> Iterator[Mutation]:
    """The mutations that tie torch's weights as Flax's are, where they are not."""
    one_in_flax, one_in_torch = ties_that_differ(trial.sides.flax, trial.sides.torch, trial.sides.names)
    if one_in_flax:
        yield tied_mutation(one_in_flax)
    if one_in_torch:
        yield parted_mutation(one_in_torch)


def _head_counts(flax: nnx.Module) -> Iterator[int]:
    """The numbers of heads that a Flax module holds."""
    for _, node in nnx.iter_modules(flax, graph=True):
        yield from (vars(node)[name] for name in HEADS if isinstance(vars(node).get(name), int))


def _numbers(flax: nnx.Module) -> Iterator[float]:
    """Numbers that a Flax module holds: an eps, or the base of rotary frequencies, under whatever name."""
    for _, node in nnx.iter_modules(flax, graph=True):
        for value in vars(node).values():
            if isinstance(value, float):
                yield value


def mutations_of_weights(trial: Trial, where: Divergence, right: Sequence[str]) -> list[Mutation]:
    """The mutations of single weights below submodules that are right, unless they are too many to try."""
    target = trial.sides.torch.get_submodule(where.torch_path)
    known = sum(1 for _ in variants(_without(target, right)))
    found = [mutation for mutation in variants(target) if not mutation.setting.startswith("gradient")]
    return found if len(found) - known <= MANY_WEIGHTS else []
