"""Runs the torch module: on a copy, in a lane's dtype, with the gradients of everything."""

from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from jax_attn.parity.lanes import Lane, is_floating, is_inexact
from jax_attn.parity.runners.calls import Call, cotangents
from jax_attn.parity.runners.constants import FlaxConstants, RoundedBuffers
from jax_attn.parity.runners.dropout import Tape
from jax_attn.parity.runners.dropout_torch import record
from jax_attn.parity.runners.lifting_torch import lifted_torch
from jax_attn.parity.runners.places import Places
from jax_attn.parity.runners.run import Run
from jax_attn.parity.runners.torch_buffers import KeptBuffers
from jax_attn.parity.runners.torch_casts import Casts
from jax_attn.parity.runners.torch_copy import copied
from jax_attn.parity.runners.torch_functions import default_dtype, intercepting
from jax_attn.parity.runners.torch_keys import keyed, state_keys
from jax_attn.parity.runners.torch_ways import KEPT, ROUNDED, Ways
from jax_attn.parity.runners.trees import Skeleton, take_apart
from jax_attn.parity.runners.widths import Widths, widths_in_torch
from jax_attn.weights.fitting import memory
from jax_attn.weights.tensors import as_numpy, as_torch


class TorchCopy:
    """A copy of a torch module in a lane's dtype, to be called. In float64, float32 inside is to be lifted.

    Args:
        module: copied, and never changed.
        lane: its dtype.
        call: `call(module, *args, **kwargs)`, in place of calling the module itself.
        training: its mode.
        truth: run in float64, on the weights and inputs as they are after rounding to the lane's dtype.
        constants: those of Flax, for what the module keeps of them in float32.

    Attributes:
        places: where float32 was lifted; None in a lane where it is not.
        ways: how the module is run, if not as it is.

    Raises:
        ValueError: the module holds something that cannot be copied.
    """

    def __init__(
        self,
        module: Any,
        lane: Lane,
        call: Callable[..., Any] | None,
        training: bool,
        truth: bool = False,
        constants: FlaxConstants | None = None,
    ):
        import torch

        self.lane = lane
        self.call = call
        self.dtype = torch.float64 if truth else getattr(torch, lane.dtype)
        self.keys = state_keys(module)
        self.module = copied(module)
        self.casts = Casts(self.module, lane, truth)
        self.ways = Ways(self.casts, self._forward)
        self.module.train(training)
        lifts = self.dtype == torch.float64
        self.places = Places() if lifts else None
        self.rounded = RoundedBuffers(module, constants) if lifts and constants is not None else None
        tensors = [*self.module.parameters(), *self.module.buffers()]
        self.device = tensors[0].device if tensors else torch.device("cpu")

    def inputs(self, call: Call) -> list[Any]:
        """The arrays of a call as tensors in the module's dtype."""
        return [self._tensor(array) for array in call.arrays]

    def _tensor(self, array: np.ndarray) -> Any:
        tensor = as_torch(array).to(self.device)
        if is_floating(array):
            return tensor.to(self.dtype)
        if is_inexact(array):
            return tensor.to(self.dtype.to_complex() if self.dtype.itemsize > 2 else tensor.dtype)
        return tensor

    def _forward(self, call: Call, inputs: list[Any]) -> Any:
        # A module that works in place on its input must not reach the leaf that we differentiate by.
        args, kwargs = call.form.build([t.clone() if t.requires_grad else t for t in inputs])
        if self.call is None:
            return self.module(*args, **kwargs)
        return self.call(self.module, *args, **kwargs)

    def _lift(self, call: Call) -> None:
        """Give the module the constants in float64 that it keeps in float32."""
        if self.rounded is not None:
            self.rounded.lift(self.module, call)

    @contextmanager
    def _defaults(self) -> Generator[None]:
        """float64 as torch's default dtype where JAX has 64 bits on; generators as they were."""
        import torch

        devices = [self.device] if self.device.type == "cuda" else []
        dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        with default_dtype(dtype), torch.random.fork_rng(devices=devices), torch.enable_grad():
            yield


class TorchSide(TorchCopy):
    """A copy of a torch module, ready to run in one lane, with the gradients of everything.

    Args:
        module: copied, and never changed.
        lane: its dtype and mode.
        call: as in `TorchCopy`, and so are `truth` and `constants`.
        truth: run in float64.
        gradients: whether to take them.
        constants: those of Flax.
    """

    def __init__(
        self,
        module: Any,
        lane: Lane,
        call: Callable[..., Any] | None,
        truth: bool = False,
        gradients: bool = True,
        constants: FlaxConstants | None = None,
    ):
        super().__init__(module, lane, call, lane.training, truth, constants)
        self.gradients = gradients
        named = self.module.named_parameters(remove_duplicate=False)
        found = {name: p for name, p in named if p.is_floating_point() or p.is_complex()}
        for parameter in found.values():
            parameter.requires_grad_(gradients)
        self.parameters = keyed(found.items(), self.keys) if gradients else {}

    def run(self, call: Call, seed: int, tape: Tape | None = None) -> tuple[Skeleton, Run]:
        """The outputs and all gradients of one call.

        Args:
            call: the call, in the lane's dtype.
            seed: of the cotangents that the gradients are taken with.
            tape: takes the dropout masks.
        """
        import torch

        with self._surroundings(call) as kept:
            inputs = self.inputs(call)
            value = self.ways.value(
                call, inputs, lambda: record(tape, self.module) if tape else nullcontext()
            )
            buffers = kept.compared() if self.lane.exact else None
            skeleton, tensors = take_apart(value)
            tensors = [torch.as_tensor(tensor) for tensor in tensors]
            leaves = [*self.parameters.values(), *(tensor for tensor in inputs if tensor.requires_grad)]
            gradients = self.gradients_of(tensors, leaves, seed)
        by_key = dict(zip(self.parameters, gradients, strict=False))
        outputs_in_numpy = [as_numpy(tensor) for tensor in tensors]
        return skeleton, Run(outputs_in_numpy, by_key, gradients[len(self.parameters) :], buffers)

    def widths(self, call: Call) -> Widths:
        """The dtypes that functions are given in a call."""
        import torch

        widths = Widths()
        with self._surroundings(call), torch.no_grad(), widths_in_torch(widths):
            self.ways.once(call, self.inputs(call))
        return widths

    def computed(self, call: Call, most: int) -> list[np.ndarray]:
        """What a call computes in up to `most` numbers, and no gradient passes through; complex ones as two."""
        seen: list[Any] = []
        with self._surroundings(call), constants_in_torch(seen, most):
            self.ways.value(call, self.inputs(call), nullcontext)
        parts = [part for t in seen for part in ((t.real, t.imag) if t.is_complex() else (t,))]
        return [np.squeeze(as_numpy(part).astype(np.float64)) for part in parts]

    def notes(self) -> list[tuple[str, str]]:
        """Rules that were taken to run the module in the lane's dtype: (name, rule)."""
        notes = [("torch", way) for way in self.ways.taken if way != ROUNDED]
        if names := list(self.casts.kept):
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            notes.append((f"{names[0]}{more}", ROUNDED if ROUNDED in self.ways.taken else KEPT))
        return notes

    def inputs(self, call: Call) -> list[Any]:
        """The arrays of a call as tensors, those that are differentiated by as leaves."""
        tensors = super().inputs(call)
        floating = zip(tensors, call.form.floating, strict=True)
        return [t.requires_grad_(self.gradients) if is_floating else t for t, is_floating in floating]

    def gradients_of(self, tensors: list[Any], leaves: list[Any], seed: int) -> list[np.ndarray]:
        """The gradients of all outputs that have one by each leaf; of complex ones, by both parts."""
        import torch

        found = [torch.view_as_real(t.resolve_conj()) if t.is_complex() else t for t in tensors]
        outputs = [tensor for tensor in found if tensor.is_floating_point()]
        weights = cotangents([tuple(tensor.shape) for tensor in outputs], self.lane, seed)
        return self._gradients(outputs, weights, leaves)

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
        """Defaults as the module needs them; the buffers are put back."""
        self._lift(call)
        kept = KeptBuffers(self.module, self.keys)
        try:
            with self._defaults(), lifted_torch(self.places):
                yield kept
        finally:
            kept.put_back()


@contextmanager
def constants_in_torch(seen: list[Any], most: int) -> Generator[None]:
    """Within it, `seen` takes what torch's functions return and no gradient passes through, each tensor once."""
    import torch

    found: dict[Any, Any] = {}  # they stay alive, so that none lies where another lay

    def noted(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = function(*args, **kwargs)
        for tensor in value if isinstance(value, tuple | list) else (value,):
            if isinstance(tensor, torch.Tensor) and not tensor.requires_grad:
                number = tensor.is_floating_point() or tensor.is_complex()
                if number and 1 < tensor.numel() <= most:
                    found.setdefault(memory(tensor), tensor)
        return value

    with intercepting(noted):
        yield
    seen += found.values()
