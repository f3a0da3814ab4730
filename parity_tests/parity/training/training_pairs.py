"""Two small modules that train alike, written for these tests, and ways to compare their trainings."""

import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

import jax_attn.optim as ours
from jax_attn.parity.training.compare import compare_training

WIDTH, CLASSES, STEPS = 5, 3, 20
EXACT = ("float64",)
NAMES = ((r"^first\.", "0."), (r"^last\.", "3."))


class Flax(nnx.Module):
    """The same as `theirs()`: a square layer, tanh, dropout, and a second layer."""

    def __init__(self, rngs):
        self.first = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.dropout = nnx.Dropout(0.25, rngs=rngs)
        self.last = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.last(self.dropout(jnp.tanh(self.first(x))))


def theirs():
    torch.manual_seed(0)
    layers = torch.nn.Linear(WIDTH, WIDTH), torch.nn.Tanh(), torch.nn.Dropout(0.25)
    return torch.nn.Sequential(*layers, torch.nn.Linear(WIDTH, CLASSES))


def draw_batches(count=6, seed=0):
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal((4, WIDTH)), rng.integers(CLASSES, size=4)) for _ in range(count)]


def flax_loss(module, x, labels):
    return ours.cross_entropy(module(x), labels)


def torch_loss(module, x, labels):
    return torch.nn.functional.cross_entropy(module(x), labels)


def train(flax_optimizer, torch_optimizer, **options):
    """The comparison of the two small modules, in float64 unless told otherwise."""
    defaults = dict(loss=(flax_loss, torch_loss), batches=draw_batches(), names=NAMES, lanes=EXACT, steps=6)
    options = {**defaults, "flax": Flax(nnx.Rngs(0)), "torch": theirs(), **options}
    optimizer = (flax_optimizer, torch_optimizer)
    return compare_training(options.pop("flax"), options.pop("torch"), optimizer=optimizer, **options)


def clip(norm=0.5):
    return ours.clip_grad_norm(norm), lambda params: torch.nn.utils.clip_grad_norm_(params, norm)


def built(kind, scheduler=None, **arguments):
    def build(params):
        optimizer = kind(params, **arguments)
        return optimizer if scheduler is None else (optimizer, scheduler(optimizer))

    return build


def first(report):
    """Step, quantity and parameter of what differs first."""
    assert not report.passed
    found = report.first_divergence
    return found.step, found.quantity, found.parameter


class Normed(nnx.Module):
    """`theirs()` with a batch norm in place of dropout."""

    def __init__(self, rngs, momentum=0.9):
        self.first = nnx.Linear(WIDTH, WIDTH, rngs=rngs)
        self.norm = nnx.BatchNorm(WIDTH, momentum=momentum, epsilon=1e-5, rngs=rngs)
        self.last = nnx.Linear(WIDTH, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.last(self.norm(jnp.tanh(self.first(x))))
