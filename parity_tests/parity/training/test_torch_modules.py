"""Torch modules that a plain deep copy, a cast of everything, or pairing by attribute names would change."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

import jax_attn.optim as ours
from parity_tests.parity.training.training_pairs import (
    CLASSES,
    NAMES,
    WIDTH,
    Flax,
    built,
    draw_batches,
    theirs,
    train,
)

TWO = ours.adamw(0.01), built(torch.optim.AdamW, lr=0.01)
LANES = ("float64", "float32")


class TorchRotated(torch.nn.Module):
    """Turns pairs of numbers by angles that it holds as complex numbers, as Llama's first code did."""

    def __init__(self):
        super().__init__()
        angles = torch.arange(3.0) / 7
        self.register_buffer("turns", torch.polar(torch.ones(3), angles), persistent=False)
        self.linear = torch.nn.Linear(6, CLASSES)

    def forward(self, x):
        turned = torch.view_as_complex(x.unflatten(-1, (3, 2))) * self.turns
        return self.linear(torch.view_as_real(turned).flatten(-2))


class FlaxRotated(nnx.Module):
    """The same in real numbers; without the sine if it is not to be the same."""

    def __init__(self, sine=True):
        self.linear = nnx.Linear(6, CLASSES, rngs=nnx.Rngs(0))
        self.sine = sine

    def __call__(self, x):
        angles = jnp.arange(3.0, dtype=jnp.float32) / 7
        cos, sin = jnp.cos(angles), jnp.sin(angles) * self.sine
        a, b = x[..., ::2], x[..., 1::2]
        turned = jnp.stack([a * cos - b * sin, a * sin + b * cos], -1)
        return self.linear(turned.reshape(x.shape))


@pytest.mark.slow
@pytest.mark.parametrize("sine", [True, False])
def test_complex_buffers_stay_complex(sine: bool):
    rng = np.random.default_rng(0)
    batches = [(rng.standard_normal((5, 6)), rng.integers(CLASSES, size=5)) for _ in range(3)]
    report = train(*TWO, flax=FlaxRotated(sine), torch=TorchRotated(), batches=batches, lanes=LANES, steps=3)
    assert report.passed is sine, str(report)


class KeepsAndLocks(torch.nn.Module):
    """Keeps what it computed, which is no leaf of the graph, and a lock."""

    def __init__(self):
        super().__init__()
        self.inner = theirs()
        self.lock = threading.Lock()
        self.kept = None

    def forward(self, x):
        self.kept = self.inner(x)
        return self.kept


def test_what_a_module_keeps_is_copied():
    module = KeepsAndLocks()
    module(torch.randn(2, WIDTH))
    names = [(pattern, f"inner.{key}") for pattern, key in NAMES]
    train(*TWO, torch=module, names=names, steps=2).assert_passed()


@pytest.mark.parametrize("stop", [False, True])
def test_wrapped_layers_go_by_the_keys_of_their_state_dict(stop: bool):
    class Stopped(Flax):
        def __call__(self, x):
            first = jax.lax.stop_gradient(self.first(x))
            return self.last(self.dropout(jnp.tanh(first)))

    module = theirs()
    module[0] = checkpoint_wrapper(module[0])
    flax = Stopped(nnx.Rngs(0)) if stop else Flax(nnx.Rngs(0))
    report = train(*TWO, flax=flax, torch=module, steps=2)
    assert report.passed is not stop, str(report)
    gradients = {d.parameter for d in report.deviations if d.quantity == "gradient"}
    assert gradients == {"0.weight", "0.bias", "3.weight", "3.bias"}


def test_keys_go_through_a_wrapper_inside():
    module = theirs()
    module[0] = torch.nn.DataParallel(module[0])
    train(*TWO, torch=module, steps=2).assert_passed()


def test_an_optimizer_of_a_module_with_wrapped_layers():
    module = theirs()
    module[0] = checkpoint_wrapper(module[0])
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.01)
    train(ours.adamw(0.01), optimizer, torch=module, steps=2).assert_passed()


@pytest.mark.parametrize("wide", [False, True])
def test_labels_of_32_bits(wide: bool):
    """Torch's cross-entropy refuses them; that a batch norm is tried on them leaves no trace."""
    batches = [(x, labels.astype(np.int64 if wide else np.int32)) for x, labels in draw_batches()]
    report = train(*TWO, batches=batches, steps=2, lanes=LANES)
    report.assert_passed()
    assert any("64 bits" in entry.reason for entry in report.left_out) is not wide


def test_finding_a_way_to_run_leaves_running_statistics_alone():
    class TorchNormed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(WIDTH)
            self.last = torch.nn.Linear(WIDTH, CLASSES)

        def forward(self, x):
            return self.last(self.norm(x))

    class FlaxNormed(nnx.Module):
        def __init__(self, momentum):
            self.norm = nnx.BatchNorm(WIDTH, momentum=momentum, epsilon=1e-5, rngs=nnx.Rngs(0))
            self.last = nnx.Linear(WIDTH, CLASSES, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.last(self.norm(x))

    class Unbiased(torch.nn.BatchNorm1d):
        """Keeps the variance of the batch, as Flax does."""

        def forward(self, x):
            mean, var = x.mean(0), x.var(0, unbiased=False)
            with torch.no_grad():
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), 0.1)
                self.running_var.lerp_(var.to(self.running_var.dtype), 0.1)
            return (x - mean) / (var + self.eps).sqrt() * self.weight + self.bias

    batches = [(x, labels.astype(np.int32)) for x, labels in draw_batches()]
    for momentum, passes in ((0.9, True), (0.8, False)):
        module = TorchNormed()
        module.norm = Unbiased(WIDTH)
        report = train(*TWO, flax=FlaxNormed(momentum), torch=module, names=(), batches=batches, steps=2)
        assert report.passed is passes, str(report)
