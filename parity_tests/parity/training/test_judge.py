"""The judge of a step, given steps that were made up."""

from dataclasses import replace

import numpy as np
import pytest

from jax_attn.parity.training.flax_runner import FlaxStep
from jax_attn.parity.training.judge import StepJudge
from jax_attn.parity.training.measures import EPS, update_error
from jax_attn.parity.training.torch_runner import TorchStep

W = {"w": np.array([1.0, -2.0])}
HALF = {"w": 0.5 * W["w"]}
TORCH = TorchStep(1.0, W, W, W, {}, {"w": 0.5}, HALF)
FLAX = FlaxStep(1.0, W, None, {}, 0.5, HALF, {})


def judged(flax=FLAX, torch=TORCH, untrained=None, steps=1):
    """What failed, and the names of what was left out."""
    judge = StepJudge("float64", 1e-12, lambda key: (untrained or {}).get(key, ""), clips=False)
    for step in range(steps):
        judge.judge(step, flax, torch)
    judge.finish()
    failed = {(d.quantity, d.parameter) for d in judge.deviations if not d.passed}
    return failed, {entry.name for entry in judge.left_out}


def test_steps_that_are_the_same_pass():
    assert judged() == (set(), set())


def test_a_gradient_of_what_torch_has_none_for():
    """Nothing in torch's loss depends on it: ours must be 0."""
    without = replace(TORCH, gradients={}, clipped={}, updates={"w": 0 * W["w"]})
    still = replace(FLAX, updates={"w": 0 * W["w"]})
    assert judged(still, without)[0] == {("gradient", "w")}
    assert judged(replace(still, gradients={"w": 0 * W["w"]}), without)[0] == set()


@pytest.mark.parametrize(("apart", "fails"), [(1.0, False), (1e3, True)])
def test_an_update_may_be_rounded_once_on_either_side(apart, fails):
    """An update of 1e-9 of a weight of 1 has seven digits; no more slack than those that are lost."""
    update = np.array([1e-9])
    error = update_error(update + apart * EPS, update, np.array([1.0]))
    assert (error > 1e-9) == fails


def test_a_buffer_that_changes_in_flax_alone():
    before = {**W, "mean": np.zeros(2)}
    torch = replace(TORCH, before=before, updates={**HALF, "mean": np.zeros(2)})
    kept, moved = (replace(FLAX, rest={"mean": mean}) for mean in (np.zeros(2), np.ones(2)))
    assert judged(kept, torch, {"mean": "a buffer in torch"})[0] == set()
    assert judged(moved, torch, {"mean": "a buffer in torch"})[0] == {("buffer", "mean")}


def test_a_momentum_that_may_be_kept_in_two_ways_counts_where_the_update_differs():
    torch = replace(TORCH, moments={"momentum_buffer": W})
    scaled = replace(FLAX, moments={"trace": {"w": np.array([0.5, -1.5])}})
    assert judged(scaled, torch) == (set(), {"momentum_buffer"})
    failed, left_out = judged(replace(scaled, updates={"w": np.array([0.5, -0.9])}), torch)
    assert failed == {("momentum_buffer", "w"), ("update", "w")}
    assert "momentum_buffer" not in left_out


def test_an_update_that_torch_does_not_know():
    flax = replace(FLAX, updates={**HALF, "other": W["w"]})
    assert judged(flax) == (set(), {"update of other"})
