"""Compares the calls of Flax with torch's while Flax runs, so that no more is kept of them than errors."""

from dataclasses import replace
from functools import partial

import numpy as np

from jax_attn.parity.tracing.call_pairs import CallPairs, LeftOutCall
from jax_attn.parity.tracing.differences import Matched, match_inputs, match_outputs, worst
from jax_attn.parity.tracing.forcing import Lesson
from jax_attn.parity.tracing.module_pairs import ModulePairs
from jax_attn.parity.tracing.observers import Observer
from jax_attn.parity.tracing.recording import TOP, CallRecord, Recording, is_float
from jax_attn.parity.tracing.traced import ModuleTrace, TracedCall


class Comparer(Observer):
    """Looks on at Flax, and compares each call with its counterpart as it returns.

    Args:
        torch: the calls of torch.
        pairs: the modules that correspond.
        bound: up to which two tensors agree.
    """

    def __init__(self, torch: Recording, pairs: ModulePairs, bound: float):
        self.torch = torch
        self.pairs = pairs
        self.bound = bound
        self.start()

    def start(self) -> None:
        """A run begins."""
        self.calls = CallPairs(self.torch, self.pairs)
        self.rows: dict[int, TracedCall] = {}  # by the index of the call in torch

    def given(self, call: CallRecord, args: object, kwargs: object) -> tuple[object, object]:
        """The arguments as they are."""
        try:
            return super().given(call, args, kwargs)
        finally:  # also of a call that shows nothing, inside jit: it has its turn
            self.calls.take(call, partial(self._same_inputs, call))

    def returned(self, call: CallRecord, value: object) -> object:
        """The output as it is."""
        value = super().returned(call, value)
        self._compare(call)
        return value

    def trace(self, case: str, lane: str, flax: Recording) -> ModuleTrace:
        """What was found, once Flax has run."""
        for call in flax.calls:  # those that raised
            theirs = self.calls.found.get(call.index)
            if theirs is None or theirs.index not in self.rows:
                self._compare(call)
        failure = self.torch.failure or flax.failure
        trace = ModuleTrace(case, lane, self._row(flax.whole, self.torch.whole), failure=failure)
        trace.left_out = self.calls.left_out(flax) + self._drop_misfits(flax)
        place = {index: number for number, index in enumerate(sorted(self.rows))}
        for index in place:
            row = self.rows[index]
            above = row.torch.parent
            while above != TOP and above not in place:
                above = self.torch.calls[above].parent
            if above != TOP:
                row.parent = place[above]
                row.lesson = replace(row.lesson, parent=self.rows[above].flax.index)
            trace.calls.append(row)
        return trace

    def _same_inputs(self, flax: CallRecord, torch: CallRecord) -> bool:
        matched, alone = match_inputs(flax, torch, self.bound)
        return bool(matched) and not alone and all(m.difference.agrees for m in matched)

    def _drop_misfits(self, flax: Recording) -> list[LeftOutCall]:
        """Leave out calls of other shapes where one side calls the module less often, perhaps on a batch.

        And those that differ of modules that share weights and are no counterparts: one takes numbers, as where
        positions are added to them, and the other none, as where they are but looked up.
        """
        uneven, left_out = self.calls.uneven(flax), []
        for index, row in list(self.rows.items()):
            number = self.pairs.groups[("flax", row.flax.path)]
            fits = all(m.layout is not None for m in (*row.lesson.inputs, *row.lesson.outputs))
            if number in uneven and not fits:
                del self.rows[index]
                reason = "the sides call it on tensors of other shapes, and not equally often"
                left_out.append(("flax", row.flax.path, reason))
            elif row.output is not None and not row.output.agrees and (alone := _takes_numbers_alone(row)):
                del self.rows[index]
                reason = f"{alone} gives it numbers, the other side none: it computes something else"
                left_out.append(("flax", row.flax.path, reason))
        return left_out

    def _compare(self, call: CallRecord) -> None:
        theirs = self.calls.found.get(call.index)
        if theirs is not None:
            self.rows[theirs.index] = self._row(call, theirs)
        call.forget()

    def _row(self, flax: CallRecord, torch: CallRecord) -> TracedCall:
        inputs, alone = match_inputs(flax, torch, self.bound)
        outputs, note = match_outputs(flax, torch, self.bound)
        lesson = Lesson(torch, inputs, outputs, tuple(alone))
        row = TracedCall(flax, torch, lesson, note=note)
        floating = [m for m in inputs if is_float(flax.inputs[m.flax])]
        row.inputs = worst(m.difference for m in floating)
        row.output = worst(m.difference for m in outputs)
        others = [m for m in inputs if m not in floating and not m.difference.agrees]
        row.other_inputs = [f"{m.flax}: {_word(m, flax, torch)}" for m in others]
        row.other_inputs += [f"{name} is given in {side} alone" for name, side in alone]
        return row


def _takes_numbers_alone(row: TracedCall) -> str:
    """The side that alone gives the module arrays of floating numbers; empty if both do, or neither."""
    sides = [
        side
        for side, call in (("flax", row.flax), ("torch", row.torch))
        if any(is_float(array) and np.ndim(array) for array in call.inputs.values())
    ]
    return sides[0] if len(sides) == 1 else ""


def _word(m: Matched, flax: CallRecord, torch: CallRecord) -> str:
    a, b = flax.inputs[m.flax], torch.inputs[m.torch]
    if a.dtype == b.dtype == bool and m.layout is not None and np.array_equal(a, ~m.layout.of(b)):
        return "the opposite of torch's"
    return str(m.difference)
