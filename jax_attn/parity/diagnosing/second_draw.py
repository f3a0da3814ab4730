"""Other inputs and other weights for the same two modules: what explains a difference there too is its cause.

On one draw a wrong cause may look right: a norm's weight that is 1, a table of zeros, ids whose largest comes
last, a mask of which one half mirrors the other.
"""

import copy
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from jax_attn.parity.cases import Case
from jax_attn.parity.comparison import Comparison
from jax_attn.parity.diagnosing.lint_modules import ties_that_differ
from jax_attn.parity.diagnosing.trials import Trial, trial_of
from jax_attn.parity.lanes import Lane, is_floating
from jax_attn.parity.runners.calls import Call
from jax_attn.parity.tracing.divergence import Divergence

FAR = 3.0
"""Floating inputs are made larger by this, so that what bends does."""

NOISE = 0.1
"""Weights are moved by this share of their size."""


def second_trial(first: Trial, case: Case, lane: Lane, where: Divergence) -> Trial | None:
    """The same trial on a second draw; None where the modules do not run on any, or do not differ there."""
    try:
        sides = moved(first.sides)
    except Exception:  # weights that must not be moved
        return None
    for other in redrawn(case, first.sides.seed):
        try:
            trial = trial_of(sides, lane, other, where)
        except Exception:  # inputs that these modules do not take
            continue
        if math.isfinite(trial.error) and trial.error > trial.bound:
            return trial
    return None


def moved(sides: Comparison) -> Comparison:
    """Both sides with other weights, the same on both; those of sides that have each their own stay."""
    import torch

    if sides.weights is None:
        return sides
    module = copy.deepcopy(sides.torch)
    generator = torch.Generator().manual_seed(sides.seed + 1)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point():
                size = parameter.detach().double().square().mean().sqrt().item() or 1.0
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter += (NOISE * size * noise).to(parameter)
        for first, *others in ties_that_differ(sides.flax, module, sides.names)[0]:
            for other in others:  # one weight in Flax
                module.get_parameter(other).copy_(module.get_parameter(first))
    return replace(sides, torch=module, weights="torch").carry()[0]


def redrawn(case: Case, seed: int) -> Iterator[Case]:
    """The call with other arrays: all of them, then without the masks, then the floating ones alone."""
    call = Call.of(case)
    for kinds in (("float", "integer", "mask"), ("float", "integer"), ("float",)):
        generator = np.random.default_rng([seed, 7])
        args, kwargs = call.form.build([_other(a, kinds, generator) for a in call.arrays])
        yield replace(case, args=args, kwargs=kwargs)


def _other(array: np.ndarray, kinds: tuple[str, ...], generator: np.random.Generator) -> np.ndarray:
    if array.size < 2:
        return array
    if _is_mask(array):
        return _other_mask(array, generator) if "mask" in kinds else array
    if is_floating(array):
        return _other_numbers(array, generator)
    if array.dtype.kind in "iu" and "integer" in kinds and not _counts(array):
        return generator.integers(array.min(), array.max(), array.shape, array.dtype, endpoint=True)
    return array


def _is_mask(array: np.ndarray) -> bool:
    """Whether an array is yes or no, in whatever dtype: two values, or some that hide."""
    if array.dtype == bool:
        return True
    if is_floating(array):
        numbers = array.astype(np.float64)
        return not np.isfinite(numbers).all() or bool((numbers < -1e3).any()) or _two_valued(numbers)
    return array.dtype.kind in "iu" and _two_valued(array)


def _two_valued(array: np.ndarray) -> bool:
    return bool(np.isin(array, (0, 1)).all())


def _counts(array: np.ndarray) -> bool:
    return array.shape[-1] > 1 and bool((np.diff(array.astype(np.int64), axis=-1) == 1).all())


def _other_numbers(array: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The same numbers elsewhere, and moved; larger too, unless all are of one sign, and may have to be."""
    numbers = array.astype(np.float64)
    mixed = generator.permuted(numbers.ravel()).reshape(array.shape)
    mixed = mixed + 0.5 * numbers.std() * generator.standard_normal(array.shape)
    low, high = numbers.min(), numbers.max()
    both_signs = low < 0 < high
    return (FAR * mixed if both_signs else mixed.clip(low, high)).astype(array.dtype)


def _other_mask(array: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Each row in another order, but for its first place, and with one more of what it says least.

    So a row that has both still has both, and its mirror is no longer its opposite.
    """
    if array.ndim < 1 or array.shape[-1] < 3:
        return array
    rows = array.reshape(-1, array.shape[-1]).copy()
    for row in rows:
        row[1:] = generator.permutation(row[1:])
        counts = [int((row == value).sum()) for value in np.unique(row)]
        if len(counts) == 2 and max(counts) > 1:
            rare, often = sorted(np.unique(row), key=lambda value, row=row: int((row == value).sum()))
            places = np.flatnonzero(row[1:] == often) + 1
            if len(places) > 1 or (len(places) and row[0] == often):
                row[generator.choice(places)] = rare
    return rows.reshape(array.shape)
