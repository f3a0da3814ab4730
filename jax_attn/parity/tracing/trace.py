"""Traces one call of a pair of modules: records both, pairs the calls, and measures each."""

import ctypes
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import cached_property

from jax_attn.parity.cases import Case
from jax_attn.parity.comparison import Comparison
from jax_attn.parity.lanes import Lane
from jax_attn.parity.runners.calls import Call, cotangents
from jax_attn.parity.runners.dropout import Tape
from jax_attn.parity.runners.places import Places, lifted
from jax_attn.parity.runners.trees import leaves_of
from jax_attn.parity.tracing.comparing import Comparer
from jax_attn.parity.tracing.forcing import GradientTeacher, Lesson, Teacher
from jax_attn.parity.tracing.gradients import Gradients
from jax_attn.parity.tracing.module_pairs import pair_modules
from jax_attn.parity.tracing.recording import Recording
from jax_attn.parity.tracing.recording_flax import FlaxRecorder
from jax_attn.parity.tracing.recording_torch import TorchRecorder
from jax_attn.parity.tracing.traced import ModuleTrace

Progress = Callable[[str], None]


class Tracer:
    """Both sides, ready to be traced in one lane; each submodule is held to `bound`, or to that of the whole."""

    def __init__(self, sides: Comparison, lane: Lane, bound: float | None = None):
        self.lane = lane
        self.bound = sides.bound if bound is None else bound
        self.seed = sides.seed
        torch = sides.torch
        self.pairs = pair_modules(sides.as_defined, torch, sides.names, sides.modules)
        came, mode = (
            ("training" if training else "evaluation") for training in (torch.training, lane.training)
        )
        self._lifted: Places | None = None  # on torch's side
        self.notes = (
            [] if came == mode else [f"the torch module came in {came} mode; both are traced in {mode} mode"]
        )
        self._torch = torch
        self._call_torch = sides.call_torch
        self._constants = sides.constants
        self._frozen = sides.frozen
        self._sides = sides

    @cached_property
    def flax(self) -> FlaxRecorder:
        """The Flax module in the lane's dtype; the one it was made of is let go."""
        recorder = FlaxRecorder(self._sides, self.lane)
        del self._sides  # and its module
        return recorder

    def record_torch(self, call: Call, *, backward: bool = False) -> tuple[Recording, Tape | None]:
        """A run of torch, whose copy in the lane's dtype is gone before there is one of Flax."""
        tape = Tape(self.seed) if self.lane.training else None
        recorder = TorchRecorder(self._torch, self.lane, self._call_torch, constants=self._constants)
        recording = recorder.record(call, self.seed, backward=backward, tape=tape)
        self._lifted = recorder.places
        del recorder
        _hand_back_memory()
        return recording, tape

    def trace(
        self,
        case: Case,
        *,
        isolated: bool = True,
        backward: bool | None = None,
        progress: Progress = lambda what: None,
    ) -> ModuleTrace:
        """Trace one call.

        Args:
            case: the call.
            isolated: whether the modules are also run with torch's inputs.
            backward: whether gradients are traced; None is: if forward all agrees.
            progress: called with what is done next.
        """
        started = time.perf_counter()
        call = Call.of(case).cast(self.lane)
        progress("torch")
        torch, tape = self.record_torch(call)
        progress("flax")
        comparer = Comparer(torch, self.pairs, self.bound)
        flax = Recording("flax") if torch.failure else self.flax.record(call, comparer, tape=tape)
        trace = comparer.trace(case.name, self.lane.name, flax)
        trace.notes += self.notes
        lessons = {row.flax.index: row.lesson for row in trace.calls}
        if isolated and trace.failure is None:
            progress("flax on torch's inputs")
            teacher = Teacher(lessons, self.bound)
            forced = self.flax.record(call, teacher, tape=tape)
            if forced.failure is not None:
                trace.notes.append(f"on torch's inputs: {forced.failure}")
            for row in trace.calls:
                row.isolated = teacher.errors.worst(row.flax.index)
        whole = trace.whole
        agrees = whole.output is not None and whole.output.agrees and not whole.note
        if trace.failure is None and (agrees if backward is None else backward):
            progress("gradients")
            self._trace_backward(trace, call, torch, lessons, isolated)
        if entry := lifted(self.flax.places if torch.failure is None else None, self._lifted):
            trace.notes.append(" ".join(entry))
        trace.seconds = time.perf_counter() - started
        return trace

    def _trace_backward(
        self, trace: ModuleTrace, call: Call, forward: Recording, lessons: dict[int, Lesson], isolated: bool
    ) -> None:
        skeleton = forward.whole.skeleton
        shapes = [leaf.shape for leaf in leaves_of(skeleton) if leaf.kind == "float"] if skeleton else []
        if skeleton is None or not shapes:
            return
        weights = cotangents(shapes, self.lane, self.seed)
        torch, tape = self.record_torch(call, backward=True)
        run = self.flax.record_gradients
        flax = run(call, skeleton, weights, tape=tape)
        trace.failure = torch.failure or flax.failure
        if trace.failure is None:
            trace.backward = True
            gradients = Gradients(flax, torch, self.bound, self._frozen)
            gradients.judge(trace)
            if isolated and not gradients.agree(trace):
                for number, lesson in list(lessons.items()):
                    theirs = torch.calls[lesson.torch.index]
                    lessons[number] = replace(lesson, torch=theirs)
                forced = run(call, skeleton, weights, GradientTeacher(lessons), tape=tape)
                gradients.judge_isolated(trace, forced)


def _hand_back_memory() -> None:
    """glibc keeps what torch has freed, where JAX, which allocates in other threads, does not find it."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
