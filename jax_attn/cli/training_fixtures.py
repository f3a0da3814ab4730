"""Pairs of trainings into which the mutations of optimizers, schedules and clipping are injected."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

import jax_attn.optim as torch_like
from jax_attn.parity.mutations.training import TRAINING_MUTATIONS
from jax_attn.parity.power_report import PowerReport
from jax_attn.parity.training.power import training_power

LARGEST_NORM = 0.3  # less than the gradients have, so that clipping acts


def _adam_with_cosine(optim: Any, parameters: Any) -> Any:
    adam = optim.Adam(parameters, 0.1, weight_decay=0.1)
    return adam, optim.lr_scheduler.CosineAnnealingLR(adam, T_max=3)


def _sgd_with_warmup(optim: Any, parameters: Any) -> Any:
    sgd = optim.SGD(parameters, 0.1, momentum=0.9, nesterov=True)
    return sgd, optim.lr_scheduler.LinearLR(sgd)


TRAINING_FIXTURES: dict[str, tuple[Callable[[], Any], Callable[[Any, Any], Any]]] = {
    "sgd": (
        lambda: torch_like.sgd(0.1, momentum=0.9, dampening=0.3, weight_decay=0.01),
        lambda optim, p: optim.SGD(p, 0.1, momentum=0.9, dampening=0.3, weight_decay=0.01),
    ),
    "sgd-linear-lr": (
        lambda: torch_like.sgd(torch_like.linear_lr(0.1), momentum=0.9, nesterov=True),
        _sgd_with_warmup,
    ),
    "adam-cosine": (
        lambda: torch_like.adam(torch_like.cosine_annealing_lr(0.1, 3), weight_decay=0.1),
        _adam_with_cosine,
    ),
    "adamw": (lambda: torch_like.adamw(0.01), lambda optim, p: optim.AdamW(p, 0.01)),
    "rmsprop": (
        lambda: torch_like.rmsprop(0.01, momentum=0.5),
        lambda optim, p: optim.RMSprop(p, 0.01, momentum=0.5),
    ),
    "adagrad": (lambda: torch_like.adagrad(0.01), lambda optim, p: optim.Adagrad(p, 0.01)),
    "nadam": (lambda: torch_like.nadam(0.01), lambda optim, p: optim.NAdam(p, 0.01)),
    "radam": (lambda: torch_like.radam(0.01), lambda optim, p: optim.RAdam(p, 0.01)),
}
"""What makes the optax transformation; and torch's optimizer, of `torch.optim` and the parameters."""

CLIPPED = ("adamw",)
"""The fixtures whose gradients are clipped to `LARGEST_NORM`."""


class Net(nnx.Module):
    """`W2 tanh(W1 x)`."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.hidden, self.out = nnx.Linear(5, 7, rngs=rngs), nnx.Linear(7, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`(b, 5) -> (b, 3)`."""
        return self.out(jax.numpy.tanh(self.hidden(x)))


def torch_net() -> Any:
    """The same in torch."""
    import torch

    class TorchNet(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hidden, self.out = torch.nn.Linear(5, 7), torch.nn.Linear(7, 3)

        def forward(self, x: Any) -> Any:
            return self.out(torch.tanh(self.hidden(x)))

    return TorchNet()


def try_training_fixture(name: str, mutations: Sequence[str]) -> PowerReport:
    """Inject mutations into one pair."""
    import torch

    rng = np.random.default_rng(0)
    batches = [(rng.standard_normal((11, 5)), rng.standard_normal((11, 3))) for _ in range(3)]
    clip: Any = (None, None)
    if name in CLIPPED:
        clip = (
            torch_like.clip_grad_norm(LARGEST_NORM),
            lambda parameters: torch.nn.utils.clip_grad_norm_(parameters, LARGEST_NORM),
        )
    flax, make = TRAINING_FIXTURES[name]
    return training_power(
        Net(),
        torch_net(),
        batches,
        (_squares, _squares),
        (flax(), lambda parameters: make(torch.optim, parameters)),
        mutations=[TRAINING_MUTATIONS[mutation] for mutation in mutations],
        clip=clip,
        title=name,
    )


def _squares(model: Any, x: Any, y: Any) -> Any:
    return ((model(x) - y) ** 2).mean()
