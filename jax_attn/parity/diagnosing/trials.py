"""A trial measures the error that is left between two modules with a mutation in torch."""

import math
from typing import Any

import numpy as np

from jax_attn.parity.cases import Case
from jax_attn.parity.comparison import Comparison
from jax_attn.parity.lanes import Lane
from jax_attn.parity.mutations import Injected
from jax_attn.parity.mutations.calls import observed
from jax_attn.parity.power import InjectedRun, results_of
from jax_attn.parity.runners.calls import Call
from jax_attn.parity.runners.dropout import Tape
from jax_attn.parity.tracing.differences import match_outputs, worst
from jax_attn.parity.tracing.divergence import Divergence
from jax_attn.parity.tracing.observers import Observer
from jax_attn.parity.tracing.recording import CallRecord, Recording
from jax_attn.parity.tracing.recording_flax import FlaxRecorder
from jax_attn.parity.tracing.recording_torch import TorchRecorder


class ForwardRun:
    """The outputs of the call that is wrong: Flax's stay, torch's are made again with each candidate.

    Attributes:
        error: what it is without any mutation in torch.
        bound: up to which the two agree.
    """

    def __init__(self, sides: Comparison, lane: Lane, case: Case, divergence: Divergence):
        self.sides = sides
        self.lane = lane
        self.divergence = divergence
        self.call = Call.of(case).cast(lane)
        self.bound = divergence.bound if divergence.bound > 0 else sides.bound
        self.compared: list[int] | None = None  # torch's outputs that Flax has too
        with observed(sides.torch):
            torch, tape = self._run(sides.torch)
        recorder = FlaxRecorder(sides, lane)
        keep = _Keep(divergence.flax_path, divergence.call - 1)
        self.recording = recorder.record(self.call, keep, tape=tape)
        whole = divergence.flax_class == "the call"  # what is done with the module's output
        self.flax = self.recording.whole if whole or keep.kept is None else keep.kept
        self.error = self._error(torch)

    def of(self, injected: Injected) -> float:
        """The error with a mutation in torch."""
        try:
            return self._error(self._run(injected.module)[0])
        except Exception:  # a mutation that does not fit after all
            return math.nan

    def _run(self, module: Any) -> tuple[Recording, Tape | None]:
        tape = Tape(self.sides.seed) if self.lane.training else None
        recorder = TorchRecorder(module, self.lane, self.sides.call_torch, constants=self.sides.constants)
        return recorder.record(self.call, self.sides.seed, tape=tape), tape

    def _error(self, torch: Recording) -> float:
        path, number = self.divergence.torch_path, self.divergence.call - 1
        same = [call for call in torch.calls if call.path == path and call.number == number]
        theirs = torch.whole if self.flax is self.recording.whole or not same else same[0]
        if torch.failure is not None or self.flax.skeleton is None or theirs.skeleton is None:
            return math.nan
        matched, _ = match_outputs(self.flax, theirs, self.bound)
        compared = [match.torch for match in matched]  # transformers' attention also gives its weights
        self.compared = compared if self.compared is None else self.compared
        difference = worst(match.difference for match in matched)
        return math.nan if difference is None or compared != self.compared else difference.error


class _Keep(Observer):
    """Keeps the outputs of one call."""

    def __init__(self, path: str, number: int):
        self.path = path
        self.number = number
        self.kept: CallRecord | None = None

    def returned(self, call: CallRecord, value: Any) -> Any:
        """Keep it, or let go of it."""
        value = super().returned(call, value)
        if (call.path, call.number) == (self.path, self.number) and self.kept is None:
            call.outputs = [np.array(output) for output in call.outputs]
            self.kept = call
        else:
            call.forget()
        return value


class Backward:
    """Outputs and gradients of the whole."""

    def __init__(self, sides: Comparison, lane: Lane, case: Case, divergence: Divergence):
        self.run = InjectedRun(sides, lane)
        self.lane = lane
        self.cases = [case]
        self.sides = sides
        self.divergence = divergence
        self.bound = sides.bound
        with observed(sides.torch):
            self.error = self._error(self.run)

    def of(self, injected: Injected) -> float:
        """The error with a mutation in torch."""
        return self._error(self.run.of(injected, self.lane))

    def _error(self, run: InjectedRun) -> float:
        errors = [result.error for result in results_of(run, self.cases)]
        return max(errors) if errors and not any(map(math.isnan, errors)) else math.nan


Trial = ForwardRun | Backward


def trial_of(sides: Comparison, lane: Lane, case: Case, divergence: Divergence) -> Trial:
    """The trial in the direction of the divergence."""
    return (Backward if divergence.direction == "backward" else ForwardRun)(sides, lane, case, divergence)
