"""Losses and their gradients against torch's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from jax_attn.optim.losses import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    mse_loss,
    nll_loss,
)
from jax_attn.parity.tolerances import MODULE

REDUCTIONS = ("mean", "sum", "none")
N, T, C = 3, 5, 7


@pytest.fixture(autouse=True)
def _float64():
    with jax.enable_x64(True):
        yield


def draw(seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(N, T, C)) * 4.0
    labels = rng.integers(0, C, size=(N, T))
    labels[0, 1] = labels[2, 3] = -100
    return logits, labels, rng.uniform(0.1, 2.0, size=C), rng


def classes_second(x):
    return np.moveaxis(x, -1, 1)


def assert_losses_equal(ours, theirs, x, to_torch=lambda x: x, to_jax=lambda x: x):
    """The loss, and the gradient of its sum."""

    @jax.jit
    def run(x):
        value, pull = jax.vjp(ours, x)
        return value, pull(jnp.ones_like(value))[0]

    value, gradient = run(x)
    leaf = torch.tensor(to_torch(x), requires_grad=True)
    expected = theirs(leaf)
    expected.sum().backward()
    for a, b in (
        (value, expected.detach().numpy()),
        (gradient, to_jax(leaf.grad.numpy())),
    ):
        assert a.dtype == jnp.float64
        assert a.shape == b.shape
        np.testing.assert_allclose(a, b, rtol=MODULE, atol=MODULE)


def as_tensor(x):
    return None if x is None else torch.tensor(x)


def as_array(x):
    return None if x is None else jnp.asarray(x)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_equals_torch(reduction, label_smoothing, weighted):
    logits, labels, weight, _ = draw()
    weight = weight if weighted else None
    options = dict(label_smoothing=label_smoothing, reduction=reduction)
    assert_losses_equal(
        lambda x: cross_entropy(x, jnp.asarray(labels), as_array(weight), **options),
        lambda x: F.cross_entropy(x, torch.tensor(labels), as_tensor(weight), **options),
        logits,
        classes_second,
        lambda x: np.moveaxis(x, 1, -1),
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_cross_entropy_of_probabilities_equals_torch(reduction, label_smoothing, weighted):
    logits, _, weight, rng = draw()
    target = rng.dirichlet(np.ones(C), size=(N, T))
    weight = weight if weighted else None
    options = dict(label_smoothing=label_smoothing, reduction=reduction)
    assert_losses_equal(
        lambda x: cross_entropy(x, jnp.asarray(target), as_array(weight), **options),
        lambda x: F.cross_entropy(x, torch.tensor(classes_second(target)), as_tensor(weight), **options),
        logits,
        classes_second,
        lambda x: np.moveaxis(x, 1, -1),
    )


@given(
    ignore_index=st.sampled_from([-100, -1, 0, 3]),
    seed=st.integers(0, 9),
    reduction=st.sampled_from(REDUCTIONS),
)
def test_nll_loss_equals_torch(ignore_index, seed, reduction):
    logits, labels, weight, _ = draw(seed)
    labels = np.where(labels == -100, ignore_index, labels).reshape(-1)
    logits = logits.reshape(-1, C)
    options = dict(ignore_index=ignore_index, reduction=reduction)
    assert_losses_equal(
        lambda x: nll_loss(x, jnp.asarray(labels), jnp.asarray(weight), **options),
        lambda x: F.nll_loss(x, torch.tensor(labels), torch.tensor(weight), **options),
        logits,
    )


def test_a_single_row():
    logits = draw()[0][0, 0]
    assert_losses_equal(
        lambda x: cross_entropy(x, jnp.asarray(2)), lambda x: F.cross_entropy(x, torch.tensor(2)), logits
    )


@pytest.mark.parametrize(("reduction", "expected"), [("mean", np.nan), ("sum", 0.0), ("none", 0.0)])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_every_label_ignored_is_as_in_torch(reduction, expected, label_smoothing):
    logits = draw()[0].reshape(-1, C)
    labels = np.full(N * T, -100)
    options = dict(label_smoothing=label_smoothing, reduction=reduction)
    assert_losses_equal(
        lambda x: cross_entropy(x, jnp.asarray(labels), **options),
        lambda x: F.cross_entropy(x, torch.tensor(labels), **options),
        logits,
    )
    np.testing.assert_array_equal(
        np.unique(cross_entropy(jnp.asarray(logits), jnp.asarray(labels), **options)), expected
    )


@pytest.mark.parametrize("label", [-1, C, -101])
def test_a_label_that_is_no_class_gives_nan(label):
    losses = cross_entropy(jnp.zeros((2, C)), jnp.array([0, label]), reduction="none")
    np.testing.assert_array_equal(np.isnan(losses), [False, True])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
def test_binary_cross_entropy_with_logits_equals_torch(reduction, weighted):
    logits, _, pos_weight, rng = draw()
    logits[0, 0, :3] = 0.0, 200.0, -200.0
    target = rng.uniform(size=logits.shape)
    pos_weight = pos_weight if weighted else None
    weight = rng.uniform(size=(T, 1)) if weighted else None
    assert_losses_equal(
        lambda x: binary_cross_entropy_with_logits(
            x, jnp.asarray(target), as_array(weight), reduction, as_array(pos_weight)
        ),
        lambda x: F.binary_cross_entropy_with_logits(
            x, torch.tensor(target), as_tensor(weight), reduction=reduction, pos_weight=as_tensor(pos_weight)
        ),
        logits,
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_mse_loss_equals_torch(reduction):
    x, _, _, rng = draw()
    target = rng.normal(size=x.shape)
    assert_losses_equal(
        lambda x: mse_loss(x, jnp.asarray(target), reduction),
        lambda x: F.mse_loss(x, torch.tensor(target), reduction=reduction),
        x,
    )


@pytest.mark.parametrize("loss", [cross_entropy, nll_loss])
def test_16_bits_are_computed_in_float32(loss):
    logits, labels, _, _ = draw()
    narrow = jnp.asarray(logits, jnp.bfloat16)
    value = loss(narrow, jnp.asarray(labels))
    assert value.dtype == jnp.bfloat16
    exact = loss(narrow.astype(jnp.float64), jnp.asarray(labels))
    one_rounding = float(jnp.finfo(jnp.bfloat16).eps) / 2
    assert abs(float(value) - float(exact)) <= one_rounding * abs(float(exact))


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: cross_entropy(jnp.zeros((2, 3)), jnp.zeros(3, int)), "labels"),
        (lambda: cross_entropy(jnp.zeros((2, 3)), jnp.zeros((2, 4))), "labels"),
        (lambda: cross_entropy(jnp.zeros((2, 3)), jnp.zeros(2, int), jnp.ones(2)), "weight"),
        (lambda: cross_entropy(jnp.zeros((2, 3)), jnp.zeros(2, int), label_smoothing=1.1), "label_smoothing"),
        (lambda: cross_entropy(jnp.zeros((2, 3)), jnp.zeros(2, int), reduction="avg"), "reduction"),
        (lambda: nll_loss(jnp.zeros((2, 3)), jnp.zeros(2)), "labels"),
        (lambda: binary_cross_entropy_with_logits(jnp.zeros(2), jnp.zeros(3)), "labels"),
        (lambda: mse_loss(jnp.zeros((2, 1)), jnp.zeros(2)), "targets"),
    ],
)
def test_bad_arguments_are_named(call, named):
    with pytest.raises(ValueError, match=named):
        call()
