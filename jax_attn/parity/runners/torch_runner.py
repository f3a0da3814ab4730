"""Runs the torch module: on a copy, in a lane's dtype, with the gradients of everything."""

import copy
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np

from jax_attn.parity.lanes import Lane, is_floating
from jax_attn.parity.runners.calls import Call, cotangents
from jax_attn.parity.runners.constants import FlaxConstants, RoundedBuffers
from jax_attn.parity.runners.lifting_torch import lifted_torch
from jax_attn.parity.runners.places import Places
from jax_attn.parity.runners.run import Run
from jax_attn.parity.runners.torch_buffers import KeptBuffers
from jax_attn.parity.runners.trees import Skeleton, take_apart
from jax_attn.weights.tensors import as_numpy, as_torch


class TorchSide:
    """A copy of a torch module, ready to run in one lane. In float64, float32 inside is lifted.

    Args:
        module: copied, and never changed.
        lane: its dtype and mode.
        call: `call(module, *args, **kwargs)`, in place of calling the module itself.
        truth: run in float64, on the weights and inputs as they are after rounding to the lane's dtype.
        constants: those of Flax, for what the module keeps of them in float32.

    Attributes:
        places: where float32 was lifted; None in a lane where it is not.
    """

    def __init__(
        self,
        module: Any,
        lane: Lane,
        call: Callable[..., Any] | None,
        truth: bool = False,
        constants: FlaxConstants | None = None,
    ):
        import torch

        self.lane = lane
        self.call = call
        self.dtype = torch.float64 if truth else getattr(torch, lane.dtype)
        self.module = copy.deepcopy(module).to(getattr(torch, lane.dtype)).to(self.dtype)
        self.module.train(lane.training)
        lifts = self.dtype == torch.float64
        self.places = Places() if lifts else None
        self.rounded = RoundedBuffers(module, constants) if lifts and constants is not None else None
        named = self.module.named_parameters(remove_duplicate=False)
        self.parameters = {key: value for key, value in named if value.is_floating_point()}
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
        tensors = [*self.module.parameters(), *self.module.buffers()]
        self.device = tensors[0].device if tensors else torch.device("cpu")

    def run(
        self, call: Call, seed: int, intercept: AbstractContextManager[Any] | None = None
    ) -> tuple[Skeleton, Run]:
        """The outputs and all gradients of one call.

        Args:
            call: the call, in the lane's dtype.
            seed: of the cotangents that the gradients are taken with.
            intercept: entered around the forward pass.
        """
        import torch

        inputs = [self._tensor(array) for array in call.arrays]
        floating = [tensor for tensor in inputs if tensor.requires_grad]
        # A module that works in place on its input must not reach the leaf that we differentiate by.
        args, kwargs = call.form.build([t.clone() if t.requires_grad else t for t in inputs])
        with self._surroundings(call) as kept:
            with intercept or nullcontext():
                value = (
                    self.module(*args, **kwargs)
                    if self.call is None
                    else self.call(self.module, *args, **kwargs)
                )
            buffers = kept.compared() if self.lane.exact else None
            skeleton, tensors = take_apart(value)
            tensors = [torch.as_tensor(tensor) for tensor in tensors]
            outputs = [tensor for tensor in tensors if tensor.is_floating_point()]
            weights = cotangents([tuple(tensor.shape) for tensor in outputs], self.lane, seed)
            gradients = self._gradients(outputs, weights, [*self.parameters.values(), *floating])
        by_key = dict(zip(self.parameters, gradients, strict=False))
        outputs_in_numpy = [as_numpy(tensor) for tensor in tensors]
        return skeleton, Run(outputs_in_numpy, by_key, gradients[len(self.parameters) :], buffers)

    def does_the_same_in_evaluation(self, call: Call, seed: int, run: Run) -> bool:
        """Whether evaluation mode gives exactly what `run`, in the lane's mode, gave and left behind."""
        self.module.eval()
        try:
            _, other = self.run(call, seed)
        except Exception:
            return False
        finally:
            self.module.train(self.lane.training)
        changed = run.buffers is not None and any(map(run.buffers.changed, run.buffers.after))
        return not changed and run.equals(other)

    def _tensor(self, array: np.ndarray) -> Any:
        tensor = as_torch(array).to(self.device)
        return tensor.to(self.dtype).requires_grad_(True) if is_floating(array) else tensor

    def _gradients(
        self, outputs: list[Any], weights: list[np.ndarray], leaves: list[Any]
    ) -> list[np.ndarray]:
        """Gradients by each leaf: zeros where nothing depends on it."""
        import torch

        pairs = [
            (output, as_torch(weight).to(output.device, output.dtype))
            for output, weight in zip(outputs, weights, strict=True)
            if output.requires_grad
        ]
        gradients: tuple[Any, ...] = (None,) * len(leaves)
        if pairs and leaves:
            gradients = torch.autograd.grad(
                [output for output, _ in pairs], leaves, [weight for _, weight in pairs], allow_unused=True
            )
        return [
            as_numpy(torch.zeros_like(leaf) if grad is None else grad.to_dense() if grad.is_sparse else grad)
            for leaf, grad in zip(leaves, gradients, strict=True)
        ]

    @contextmanager
    def _surroundings(self, call: Call) -> Generator[KeptBuffers]:
        """float64 as torch's default dtype where JAX has 64 bits on; generators and buffers as they were."""
        import torch

        devices = [self.device] if self.device.type == "cuda" else []
        default = torch.get_default_dtype()
        if self.rounded is not None:
            self.rounded.lift(self.module, call)
        kept = KeptBuffers(self.module)
        torch.set_default_dtype(torch.float64 if self.dtype == torch.float64 else torch.float32)
        try:
            with torch.random.fork_rng(devices=devices), torch.enable_grad(), lifted_torch(self.places):
                yield kept
        finally:
            torch.set_default_dtype(default)
            kept.put_back()
