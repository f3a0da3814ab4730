"""The gradients of activations and parameters of two recorded runs, judged."""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from jax_attn.parity.runners.run import frozen_on_both
from jax_attn.parity.tracing.differences import Difference, Matched, measure, worst
from jax_attn.parity.tracing.recording import CallRecord, Recording, is_float
from jax_attn.parity.tracing.traced import ModuleTrace, TracedCall


class Gradients:
    """The gradients of two runs, judged together: one that is zero needs the scale of the others."""

    def __init__(self, flax: Recording, torch: Recording, bound: float, frozen: Collection[str]):
        self.flax = flax
        self.torch = torch
        self.bound = bound
        known = [*torch.parameter_gradients.values(), *torch.whole.gradients.values()]
        self.scale = max((float(np.abs(g).max(initial=0.0)) for g in known), default=0.0)
        self.parameters = {
            key: self._measure(key, flax.parameter_gradients[key], gradient)
            for key, gradient in torch.parameter_gradients.items()
            if key in flax.parameter_gradients
            and not (key in frozen and frozen_on_both(flax.parameter_gradients[key], gradient))
        }

    def judge(self, trace: ModuleTrace) -> None:
        """Fill in the gradients' errors."""
        self._whole(trace.whole)
        for row in trace.calls:
            if row.output is None:
                continue
            ours, theirs = self.flax.calls[row.flax.index], self.torch.calls[row.torch.index]
            row.flax.gradients, row.torch.gradients = ours.gradients, theirs.gradients
            row.input_gradient = self._inputs(row, ours, theirs)
            row.output_gradient = self._outputs(row, ours, theirs)
            if row.flax.number == row.torch.number == 0:  # of a shared module's calls, backward's last
                row.parameter_gradient = self._below(row.torch.path)

    def agree(self, trace: ModuleTrace) -> bool:
        """Whether every gradient of an input, and of a parameter, agrees."""
        known = [*self.parameters.values(), trace.whole.input_gradient]
        known += [row.input_gradient for row in trace.calls]
        return all(difference is None or difference.agrees for difference in known)

    def judge_isolated(self, trace: ModuleTrace, forced: Recording) -> None:
        """Fill in the errors of the forced run, where it came by."""
        own = {
            key: self._measure(key, forced.parameter_gradients[key], self.torch.parameter_gradients[key])
            for key in self.parameters
        }
        for place, row in enumerate(trace.calls):
            ours, theirs = forced.calls[row.flax.index], self.torch.calls[row.torch.index]
            if row.input_gradient is None or (theirs.reached and not ours.reached):
                continue
            found = [self._inputs(row, ours, theirs)]
            for _, child in trace.children(place):
                called = forced.calls[child.flax.index], self.torch.calls[child.torch.index]
                found.append(self._outputs(child, *called))
            if row.parameter_gradient is not None:
                found += [own[key] for key in own if key.rpartition(".")[0] == row.torch.path]
            row.isolated_gradient = worst(difference for difference in found if difference is not None)

    def _whole(self, row: TracedCall) -> None:
        theirs = self.torch.whole.gradients
        row.input_gradient = worst(
            self._measure(str(name), self.flax.whole.gradients[name], theirs[name]) for name in theirs
        )
        row.parameter_gradient = worst(self.parameters.values())

    def _below(self, path: str) -> Difference | None:
        keys = (key for key in self.parameters if not path or key.startswith(f"{path}."))
        return worst(self.parameters[key] for key in keys)

    def _inputs(self, row: TracedCall, ours: CallRecord, theirs: CallRecord) -> Difference | None:
        return self._worst(row.lesson.inputs, row.flax.inputs, ours, theirs)

    def _outputs(self, row: TracedCall, ours: CallRecord, theirs: CallRecord) -> Difference | None:
        return self._worst(row.lesson.outputs, row.flax.outputs, ours, theirs)

    def _worst(
        self, pairs: Sequence[Matched], like: Any, ours: CallRecord, theirs: CallRecord
    ) -> Difference | None:
        """The worst gradient of tensors that are paired; `like` holds those of Flax."""
        found = []
        for m in pairs:
            hidden = m.flax in ours.unwatched or m.torch in theirs.unwatched
            if m.layout is not None and is_float(like[m.flax]) and not hidden:
                zeros = np.zeros(like[m.flax].shape)
                torch = theirs.gradients.get(m.torch)
                turned = zeros if torch is None else m.layout.of(torch)
                found.append(self._measure(m.difference.name, ours.gradients.get(m.flax, zeros), turned))
        return worst(found)

    def _measure(self, name: str, flax: np.ndarray, torch: np.ndarray) -> Difference:
        return measure(name, flax, torch, self.bound, self.scale)[0]
