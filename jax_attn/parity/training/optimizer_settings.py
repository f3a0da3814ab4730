"""The settings of an optimizer, and what it makes of given gradients.

torch's formulas in NumPy, over one flat vector of numbers, and a few that torch does not have but optax does:
an eps inside the root, no correction of the moments' bias, Nesterov's Adam without a momentum schedule.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

KINDS = {
    "SGD": "sgd",
    "Adam": "adam",
    "AdamW": "adam",
    "NAdam": "nadam",
    "RAdam": "radam",
    "RMSprop": "rmsprop",
    "Adagrad": "adagrad",
}


@dataclass(frozen=True)
class Settings:
    """Everything but the learning rate; names and meanings are torch's where it has them.

    Attributes:
        eps_root: an eps that is added under the root.
        corrected: whether the moments' bias is corrected.
        decoupled: whether the decay passes the moments by.
        decayed: which tensors decay.
        max_norm: of the gradients that are clipped; inf for none.
        norm_eps: what clipping adds to the norm.
    """

    kind: str
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    eps_root: float = 0.0
    corrected: bool = True
    amsgrad: bool = False
    nesterov: bool = False
    momentum: float = 0.0
    dampening: float = 0.0
    alpha: float = 0.99
    centered: bool = False
    momentum_decay: float = 4e-3
    lr_decay: float = 0.0
    initial_accumulator_value: float = 0.0
    maximize: bool = False
    weight_decay: float = 0.0
    decoupled: bool = False
    decayed: tuple[bool, ...] = ()
    max_norm: float = math.inf
    norm_eps: float = 1e-6


@dataclass(frozen=True)
class Probe:
    """Gradients and parameters of some steps, flat, and which tensor each number is of.

    Several problems at once have an axis of their own, after that of the steps.
    """

    params: np.ndarray
    grads: np.ndarray
    tensor: np.ndarray


def of_torch(optimizer: Any, clip: tuple[float, float] = (math.inf, 1e-6)) -> Settings | None:
    """The settings of a torch optimizer; None where its class or its groups are none of those known here."""
    kind = KINDS.get(type(optimizer).__name__)
    groups = optimizer.param_groups
    first = groups[0]
    varied = {"params", "weight_decay", "lr", "initial_lr"}
    if kind is None or any({**first, **group, **_part(first, varied)} != first for group in groups):
        return None
    decays = {float(group["weight_decay"]) for group in groups} - {0.0}
    if len(decays) > 1 or len({float(group["lr"]) for group in groups}) > 1:
        return None
    names = Settings.__dataclass_fields__
    known = {
        name: _number(value) for name, value in first.items() if name in names and name != "weight_decay"
    }
    decoupled = bool(first.get("decoupled_weight_decay", False))
    decayed = tuple(float(group["weight_decay"]) > 0 for group in groups for _ in group["params"])
    if "betas" in known:
        known["betas"] = tuple(map(float, known["betas"]))
    decay = decays.pop() if decays else 0.0
    if not decay:
        decayed = tuple(True for _ in decayed)
    return Settings(
        kind,
        **known,
        weight_decay=decay,
        decoupled=decoupled,
        decayed=decayed,
        max_norm=clip[0],
        norm_eps=clip[1],
    )


def directions(s: Settings, probe: Probe) -> Iterator[np.ndarray]:
    """What is subtracted in each step, over the learning rate."""
    (beta1, beta2), first, second, largest, buffer = s.betas, 0.0, s.initial_accumulator_value, 0.0, 0.0
    product = 1.0
    decays = s.weight_decay * np.asarray(s.decayed, float)[probe.tensor]
    for t, (p, g) in enumerate(zip(probe.params, probe.grads, strict=True), start=1):
        if s.max_norm < math.inf:
            norm = np.linalg.norm(g, axis=-1, keepdims=True)
            g = g * np.minimum(1.0, s.max_norm / (norm + s.norm_eps))
        g = -g if s.maximize else g
        g = g if s.decoupled else g + decays * p
        if s.kind == "sgd":
            buffer = g if t == 1 else s.momentum * buffer + (1 - s.dampening) * g
            d = g if not s.momentum else g + s.momentum * buffer if s.nesterov else buffer
        elif s.kind == "adagrad":
            second = second + g * g
            d = g / (1 + (t - 1) * s.lr_decay) / (np.sqrt(second + s.eps_root) + s.eps)
        elif s.kind == "rmsprop":
            first = s.alpha * first + (1 - s.alpha) * g
            second = s.alpha * second + (1 - s.alpha) * g * g
            spread = second - first * first if s.centered else second
            d = g / (np.sqrt(spread + s.eps_root) + s.eps)
            buffer = s.momentum * buffer + d
            d = buffer if s.momentum else d
        else:
            first, second = beta1 * first + (1 - beta1) * g, beta2 * second + (1 - beta2) * g * g
            c1, c2 = (1 - beta1**t, 1 - beta2**t) if s.corrected else (1.0, 1.0)
            largest = np.maximum(largest, second) if s.amsgrad else second
            root = np.sqrt(largest / c2 + s.eps_root) + s.eps
            if s.kind == "adam":
                ahead = beta1 / (1 - beta1 ** (t + 1)) * first + (1 - beta1) / c1 * g
                d = (ahead if s.nesterov else first / c1) / root
            elif s.kind == "nadam":
                mu, after = (beta1 * (1 - 0.5 * 0.96 ** (k * s.momentum_decay)) for k in (t, t + 1))
                product *= mu
                d = ((1 - mu) / (1 - product) * g + after / (1 - product * after) * first) / root
            else:
                d = _rectified(first / c1, largest, beta2, t, s.eps)
        yield d + decays * p if s.decoupled else d


def _rectified(mean: np.ndarray, second: np.ndarray, beta2: float, t: int, eps: float) -> np.ndarray:
    limit = 2 / (1 - beta2) - 1
    length = limit - 2 * t * beta2**t / (1 - beta2**t)
    if length <= 5:
        return mean
    rectifier = (length - 4) * (length - 2) * limit / ((limit - 4) * (limit - 2) * length)
    return mean * math.sqrt(rectifier) * math.sqrt(1 - beta2**t) / (np.sqrt(second) + eps)


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _part(group: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name in names}
