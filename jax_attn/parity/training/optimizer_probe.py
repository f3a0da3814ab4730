"""Two optimizers at given parameters and gradients: the parameters are set in every step, not trained."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_attn.parity.runners.torch_functions import default_dtype
from jax_attn.parity.training.optimizer_settings import Probe
from jax_attn.parity.training.torch_optimizer import build_optimizer, rebuilt
from jax_attn.weights.tensors import as_numpy

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class TorchRun:
    """What torch made of a probe.

    Attributes:
        optimizer: that was built for it.
        rates: the learning rate of the first group in every step.
        updates: of every step, flat.
        seen: the gradients after clipping.
    """

    optimizer: Any
    rates: list[float]
    updates: np.ndarray
    seen: np.ndarray


def draw(rng: np.random.Generator, shape: tuple[int, ...], size: float) -> np.ndarray:
    """Numbers of both signs and of two orders of magnitude, the largest about `size`."""
    return size * np.exp(rng.uniform(-5, 0, shape)) * rng.choice([-1.0, 1.0], shape)


def draw_probe(shapes: Shapes, size: float, steps: int, seed: int) -> Probe:
    """Gradients, the largest about `size`; parameters about 1."""
    rng = np.random.default_rng([seed, 5])
    sizes = [math.prod(shape) for shape in shapes.values()]
    shape = (steps, sum(sizes))
    grads = draw(rng, shape, size)
    return Probe(rng.normal(size=shape), grads, np.repeat(np.arange(len(sizes)), sizes))


def run_flax(tx: optax.GradientTransformation, probes: Sequence[Probe], shapes: Shapes) -> list[np.ndarray]:
    """The updates of every step, of each probe."""
    tx = optax.with_extra_args_support(tx)

    def step(state: Any, given: Any) -> Any:
        updates, state = tx.update(given[1], state, given[0])
        return state, updates

    @jax.jit
    def run(params: Any, grads: Any) -> Any:
        state = tx.init({name: leaf[0] for name, leaf in params.items()})
        return jax.lax.scan(step, state, (params, grads))[1]

    with jax.enable_x64(True):
        found = [run(*(_stacked(rows, shapes) for rows in (probe.params, probe.grads))) for probe in probes]
        flat = [[np.asarray(updates[name]) for name in shapes] for updates in found]
        return [np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1) for parts in flat]


def run_torch(given: Any, clip: Any, probe: Probe, shapes: Shapes) -> TorchRun:
    """What torch makes of a probe, in float64.

    Raises:
        ValueError: several groups, and no function; or what `build_optimizer` raises.
    """
    import torch

    with default_dtype(torch.float64):
        parameters = [torch.nn.Parameter(torch.tensor(p)) for p in _tensors(probe.params[0], shapes).values()]
        if hasattr(given, "param_groups"):
            if len(given.param_groups) != 1:
                raise ValueError(
                    "torch_optimizer must be a function that takes parameters, or have one group, "
                    f"got {len(given.param_groups)} groups"
                )
            given = rebuilt(given, {}, parameters)
        optimizer, scheduler = build_optimizer(given, parameters)
        rates, updates, seen = [], [], []
        for p, g in zip(probe.params, probe.grads, strict=True):
            values = zip(parameters, _tensors(p, shapes).values(), _tensors(g, shapes).values(), strict=True)
            for parameter, value, gradient in values:
                parameter.data = torch.tensor(value)
                parameter.grad = torch.tensor(gradient)
            if clip is not None:
                clip(parameters)
            seen.append(np.concatenate([as_numpy(q.grad).ravel() for q in parameters]))
            rates.append(float(optimizer.param_groups[0]["lr"]))
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
            updates.append(np.concatenate([q.detach().numpy().ravel() for q in parameters]) - p)
    return TorchRun(optimizer, rates, np.stack(updates), np.stack(seen))


def _tensors(flat: np.ndarray, shapes: Shapes) -> dict[str, np.ndarray]:
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])[:-1]
    parts = zip(shapes.items(), np.split(flat, ends), strict=True)
    return {name: part.reshape(shape) for (name, shape), part in parts}


def _stacked(rows: np.ndarray, shapes: Shapes) -> dict[str, jax.Array]:
    """Each tensor of every step."""
    steps = [_tensors(row, shapes) for row in rows]
    return {name: jnp.stack([tensors[name] for tensors in steps]) for name in shapes}
