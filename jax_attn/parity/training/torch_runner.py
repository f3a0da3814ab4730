"""Trains the torch module: a copy, in one dtype, step by step, and keeps everything of each step."""

import math
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from jax_attn.parity.lanes import lanes_named
from jax_attn.parity.runners.calls import Call
from jax_attn.parity.runners.constants import FlaxConstants
from jax_attn.parity.runners.dropout import DropoutMismatch, Tape
from jax_attn.parity.runners.dropout_torch import record
from jax_attn.parity.runners.lifting_torch import lifted_torch
from jax_attn.parity.runners.torch_buffers import KeptBuffers
from jax_attn.parity.runners.torch_runner import TorchCopy
from jax_attn.parity.training.torch_optimizer import build_optimizer, rebuilt
from jax_attn.weights.tensors import as_numpy, as_torch


class BadLoss(ValueError):
    """A loss function that cannot be trained on."""


@dataclass(frozen=True)
class TorchRecipe:
    """What torch trains, and how. See `compare_training`; keys of `left_out` are not reported.

    `constants` are those of Flax, for what torch keeps of them in float32.
    """

    module: Any
    loss: Callable[..., Any]
    optimizer: Any
    clip: Callable[[list[Any]], Any] | None = None
    training: bool = True
    left_out: Collection[str] = ()
    constants: FlaxConstants | None = None


@dataclass(frozen=True)
class TorchStep:
    """One step, by torch key.

    Attributes:
        loss: its value.
        before: every floating parameter and buffer before the step.
        gradients: as `backward` gave them; a parameter that torch has no gradient for is not in it.
        clipped: the gradients that the optimizer saw.
        moments: every tensor of a parameter's shape in the optimizer's state, by torch's name of it.
        rates: the learning rate of every parameter that is optimized.
        updates: each parameter and buffer after the step, minus before.
    """

    loss: float
    before: Mapping[str, np.ndarray]
    gradients: Mapping[str, np.ndarray]
    clipped: Mapping[str, np.ndarray]
    moments: Mapping[str, Mapping[str, np.ndarray]]
    rates: Mapping[str, float]
    updates: Mapping[str, np.ndarray]


class TorchTrainer(TorchCopy):
    """A copy of the module with an optimizer of its own.

    Args:
        recipe: what to train, and how.
        dtype: the dtype to train in.
        rounded: the dtype that the weights are rounded to first.
        jitter: noise that is added to every gradient, as a part of the largest of them all.
        seed: of the noise.
    """

    def __init__(
        self,
        recipe: TorchRecipe,
        dtype: str = "float64",
        rounded: str = "float64",
        *,
        jitter: float = 0.0,
        seed: int = 0,
    ):
        (lane,) = lanes_named([rounded])
        super().__init__(
            recipe.module, lane, recipe.loss, recipe.training, dtype != rounded, recipe.constants
        )
        self.recipe = recipe
        self.jitter = jitter
        self.noise = np.random.default_rng([seed, 4])
        given = recipe.optimizer
        if hasattr(given, "param_groups"):
            theirs = zip(recipe.module.parameters(), self.module.parameters(), strict=True)
            given = rebuilt(given, {id(parameter): own for parameter, own in theirs})
        with self._defaults():
            self.optimizer, self.scheduler = build_optimizer(given, list(self.module.parameters()))
        self.parameters = {self.keys[name][0]: p for name, p in self.module.named_parameters()}
        buffers = {self.keys[name][0]: b for name, b in self.module.named_buffers() if b.is_floating_point()}
        self.tensors = {**self.parameters, **buffers}
        self.aliases = _aliases(self.module, self.keys)
        self.started = False
        self.groups = _groups(self.parameters, self.optimizer)

    def values(self) -> dict[str, np.ndarray]:
        """Every floating parameter and buffer, copied."""
        return self._named({key: as_numpy(tensor.clone()) for key, tensor in self.tensors.items()})

    def move(self, size: float, rounded: str) -> None:
        """Move every number of the parameters by up to `size` of itself, and round it."""
        import torch

        with torch.no_grad():
            for parameter in self.parameters.values():
                factor = 1 + self.noise.uniform(-size, size, tuple(parameter.shape))
                moved = parameter * as_torch(factor).to(parameter.device)
                dtype = getattr(torch, rounded)
                parameter.copy_(moved.to(dtype.to_complex() if parameter.is_complex() else dtype))

    def untrained(self, key: str) -> str:
        """Why torch does not train what has this key; empty if it does."""
        key = self.aliases.get(key, key)
        if key not in self.parameters:
            return "a buffer in torch"
        if not self.parameters[key].requires_grad:
            return "frozen in torch: requires_grad is False"
        return "" if key in self.groups else "left out of torch's optimizer"

    def step(self, call: Call, tape: Tape | None = None, *, brief: bool = False) -> TorchStep:
        """Train on a batch; where `brief`, without gradients and moments.

        Raises:
            BadLoss: the loss is no scalar, or nothing to differentiate.
        """
        import torch

        with self._defaults():
            self._lift(call)
            before = self.values()
            self.module.zero_grad(set_to_none=True)
            with lifted_torch(self.places):
                loss = self._loss(call, tape)
                torch.autograd.backward(loss)
            self._add_noise()
            return self._optimized(float(loss.detach()), before, brief)

    def step_with(self, weights: Mapping[str, np.ndarray], gradients: Mapping[str, np.ndarray]) -> TorchStep:
        """At these weights, clip and apply these gradients of what is optimized; without a loss."""
        with self._defaults():
            self.module.zero_grad(set_to_none=True)
            for key in self.groups:
                parameter = self.parameters[key]
                parameter.data.copy_(as_torch(weights[key]))
                if parameter.requires_grad:
                    parameter.grad = as_torch(gradients[key]).to(parameter.device, parameter.dtype)
            return self._optimized(0.0, self.values(), brief=False)

    def _optimized(self, loss: float, before: Mapping[str, np.ndarray], brief: bool) -> TorchStep:
        """The step, once there are gradients."""
        gradients = {} if brief else self._gradients()
        if self.recipe.clip is not None:
            self.recipe.clip(list(self.parameters.values()))
        clipped = gradients if brief or self.recipe.clip is None else self._gradients()
        rates = self._named({key: float(group["lr"]) for key, group in self.groups.items()})
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        updates = {key: after - before[key] for key, after in self.values().items()}
        return TorchStep(loss, before, gradients, clipped, {} if brief else self._moments(), rates, updates)

    def _loss(self, call: Call, tape: Tape | None) -> Any:
        import torch

        arrays = self.inputs(call)
        loss = self._first_value(call, arrays, tape) if not self.started else self._value(call, arrays, tape)
        self.started = True
        if tape is not None and tape.elsewhere:
            drew = ", ".join(tape.elsewhere)
            raise DropoutMismatch(f"it draws random numbers outside of dropout ({drew}), unknown to flax")
        if not isinstance(loss, torch.Tensor) or loss.ndim != 0 or not loss.is_floating_point():
            raise BadLoss(f"torch's loss must be a floating scalar, got {_described(loss)}")
        if not loss.requires_grad:
            raise BadLoss(
                "torch's loss must depend on a parameter that has requires_grad, got one that does not"
            )
        return loss

    def _first_value(self, call: Call, arrays: list[Any], tape: Tape | None) -> Any:
        """The loss; if the module does not run as it is, in a way in which it does."""
        kept = KeptBuffers(self.module, self.keys)
        try:
            return self._value(call, arrays, tape)
        except Exception:
            kept.put_back()
            found = self.ways.settle(call, arrays)
            kept.put_back()
            if not found:
                raise
            return self._value(call, arrays, tape)

    def _value(self, call: Call, arrays: list[Any], tape: Tape | None) -> Any:
        with nullcontext() if tape is None else record(tape, self.module):
            return self.ways.once(call, arrays)

    def _add_noise(self) -> None:
        known = [p.grad for p in self.parameters.values() if p.grad is not None]
        if not self.jitter or not known:
            return
        size = self.jitter * max(float(grad.abs().max()) for grad in known if grad.numel())
        for grad in known if math.isfinite(size) else ():
            draw = self.noise.uniform(-size, size, tuple(grad.shape))
            grad += as_torch(draw).to(grad.device, grad.dtype)

    def _gradients(self) -> dict[str, np.ndarray]:
        grads = {key: p.grad for key, p in self.parameters.items() if p.grad is not None}
        return self._named(
            {k: as_numpy((g.to_dense() if g.is_sparse else g).clone()) for k, g in grads.items()}
        )

    def _moments(self) -> dict[str, dict[str, np.ndarray]]:
        """By torch's name, then by key."""
        import torch

        found: dict[str, dict[str, np.ndarray]] = {}
        for key, parameter in self.parameters.items():
            for name, value in self.optimizer.state.get(parameter, {}).items():
                if isinstance(value, torch.Tensor) and value.shape == parameter.shape and name != "step":
                    found.setdefault(name, {})[key] = as_numpy(value.clone())
        return {name: self._named(tensors) for name, tensors in found.items()}

    def _named(self, by_key: dict[str, Any]) -> dict[str, Any]:
        """The same with the further names of what is shared, without what is left out."""
        named = {**by_key, **{name: by_key[key] for name, key in self.aliases.items() if key in by_key}}
        return {key: value for key, value in named.items() if key not in self.recipe.left_out}


def _groups(parameters: Mapping[str, Any], optimizer: Any) -> dict[str, Any]:
    """The group of each parameter that is optimized, by key."""
    keys = {id(parameter): key for key, parameter in parameters.items()}
    optimized = [(parameter, group) for group in optimizer.param_groups for parameter in group["params"]]
    strangers = sum(id(parameter) not in keys for parameter, _ in optimized)
    if strangers or not optimized:
        raise ValueError(
            f"torch's optimizer must hold parameters of the torch module alone, got {len(optimized)} "
            f"parameters, {strangers} of which are not the module's"
        )
    return {keys[id(parameter)]: group for parameter, group in optimized}


def _aliases(module: Any, keys: Mapping[str, Collection[str]]) -> dict[str, str]:
    """Further keys of shared parameters and buffers, each with the first one."""
    first: dict[int, str] = {}
    found = {}
    for named in (module.named_parameters, module.named_buffers):
        for name, tensor in named(remove_duplicate=False):
            for key in keys[name]:
                if first.setdefault(id(tensor), key) != key:
                    found[key] = first[id(tensor)]
    return found


def _described(value: Any) -> str:
    shape = getattr(value, "shape", None)
    kind = type(value).__name__
    return kind if shape is None else f"a {kind} of shape {tuple(shape)} and dtype {value.dtype}"
