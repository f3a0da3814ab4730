"""The float32 lane alone: nothing passes in it that was not compared."""

import numpy as np
import pytest
import torch
from flax import nnx

import jax_attn.optim as ours
from jax_attn.parity.training.noise import Noise
from parity_tests.parity.training.training_pairs import (
    NAMES,
    WIDTH,
    Normed,
    built,
    clip,
    first,
    flax_loss,
    theirs,
    torch_loss,
    train,
)

NOISY = dict(lanes=("float32",), steps=3)
SGD = built(torch.optim.SGD, lr=0.1)


def but(*path):
    """All parameters but one."""
    return lambda here, variable: isinstance(variable, nnx.Param) and here != path


def test_a_training_that_moves_nothing():
    report = train(ours.sgd(0.0), built(torch.optim.SGD, lr=0.0), **NOISY)
    assert first(report) == (0, "run", "")
    assert "nothing to compare" in str(report)


def test_a_parameter_that_one_side_does_not_train():
    report = train(ours.sgd(0.1), SGD, wrt=but("first", "bias"), **NOISY | dict(steps=1))
    assert first(report)[:2] == (-1, "update")
    assert "0.bias: not trained in flax" in str(report)
    frozen = theirs()
    frozen[0].bias.requires_grad_(False)
    report = train(ours.sgd(0.1), SGD, torch=frozen, **NOISY | dict(steps=1))
    assert first(report)[:2] == (-1, "update")
    assert "0.bias: frozen in torch" in str(report)
    both = train(ours.sgd(0.1), SGD, torch=frozen, wrt=but("first", "bias"), **NOISY | dict(steps=1))
    both.assert_passed()


def test_a_gradient_of_what_torchs_loss_does_not_reach():
    def decayed(module, x, labels):
        return flax_loss(module, x, labels) + module.last.bias.get_value().sum()

    class Unbiased(torch.nn.Module):
        """Has a bias, and does not use it."""

        def __init__(self):
            super().__init__()
            self.inner = theirs()
            self.bias = torch.nn.Parameter(self.inner[3].bias.detach().clone())
            self.inner[3].bias = None

        def forward(self, x):
            return self.inner(x)

    names = ((r"^last\.bias", "bias"), (r"^first\.", "inner.0."), (r"^last\.", "inner.3."))
    module = Unbiased()
    torch.nn.init.zeros_(module.bias)
    report = train(ours.sgd(0.0), SGD, torch=module, names=names, loss=(decayed, torch_loss), **NOISY)
    assert "gradient" in {d.quantity for d in report.failures}


def test_running_statistics():
    module = theirs()
    module[2] = torch.nn.BatchNorm1d(WIDTH)
    module[2].register_forward_hook(_unbiased_to_biased)
    options = dict(torch=module, names=(*NAMES, (r"^norm\.", "2.")), **NOISY)
    train(ours.sgd(0.1), SGD, flax=Normed(nnx.Rngs(0)), **options).assert_passed()
    report = train(ours.sgd(0.1), SGD, flax=Normed(nnx.Rngs(0), 0.99), **options)
    assert {d.quantity for d in report.failures} == {"buffer"}


def _unbiased_to_biased(norm, given, output):
    """What flax keeps."""
    (x,) = given
    with torch.no_grad():
        apart = x.var(0, unbiased=False) - x.var(0, unbiased=True)
        norm.running_var.data.add_(norm.momentum * apart)


def test_clipping_that_never_acts_is_told():
    for norm, told in ((1e-3, set()), (1e3, {"clipping"})):
        report = train(ours.sgd(0.1), SGD, clip=clip(norm), **NOISY)
        report.assert_passed()
        assert {entry.name for entry in report.left_out} == told


@pytest.mark.parametrize(("ours", "theirs", "ratio"), [(3e-7, 1e-7, 3.0), (3e-7, 0.0, 3.0), (0.0, 1.0, 0.0)])
def test_the_floor_of_the_noise_is_an_epsilon(ours, theirs, ratio):
    noise = Noise()
    noise.add(*(np.asarray([1.0 + apart]) for apart in (ours, theirs, 0.0)))
    assert noise.ratio(1e-7) == pytest.approx(ratio, rel=1e-6)


@pytest.mark.parametrize(
    "seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
)
def test_what_flax_does_not_train_is_moved_with_the_rest(seed):
    """In every draw torch starts from other weights: frozen ones, too, are the same on both sides."""
    report = train(ours.sgd(0.1), SGD, wrt=but("first", "kernel"), **NOISY | dict(steps=1, seed=seed))
    assert [d.quantity for d in report.failures] == ["update"]
