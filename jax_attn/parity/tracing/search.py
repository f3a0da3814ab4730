"""Finds the innermost call whose output differs while its inputs agree, forward or backward."""

from collections.abc import Callable, Iterable
from dataclasses import replace

from jax_attn.parity.tracing.differences import Difference
from jax_attn.parity.tracing.divergence import Divergence
from jax_attn.parity.tracing.recording import TOP
from jax_attn.parity.tracing.traced import ModuleTrace, TracedCall

# Between these an error is of the size that rounding to float32 makes, and this many times larger is another.
FLOAT32 = 1e-10, 1e-6
FAR_MORE = 1e2


def find(trace: ModuleTrace) -> Divergence | None:
    """The first divergence of a trace, forward before backward; None if the whole was compared and agrees.

    Where both sides round to float32 inside, as many norms do, differences of that size begin at once. Then
    it is the first module whose own error is a hundred times larger, if there is one; a note lists those.
    """
    if _whole_agrees(trace):
        return find_backward(trace)
    first = find_forward(trace)
    if first is None or first.isolated is None or not FLOAT32[0] <= first.isolated.error <= FLOAT32[1]:
        return first
    bound = FAR_MORE * first.isolated.error
    if not any(call.isolated is not None and call.isolated.error > bound for call in trace.calls):
        return first
    larger = find_forward(_held_to(trace, bound))
    if larger is None or larger.isolated is None or larger.isolated.agrees:
        return first
    note = f"differences of float32's size begin before, at {first.flax_path or 'the module itself'}"
    return replace(larger, notes=(*larger.notes, f"{note} ({first.isolated.error:.1e})"))


def _held_to(trace: ModuleTrace, bound: float) -> ModuleTrace:
    """The same trace, with another bound of what is not exact."""

    def held(call: TracedCall) -> TracedCall:
        found = {
            name: replace(value, bound=bound)
            for name, value in vars(call).items()
            if isinstance(value, Difference) and value.bound > 0
        }
        return replace(call, **found)

    return replace(trace, whole=held(trace.whole), calls=[held(call) for call in trace.calls])


def find_forward(trace: ModuleTrace) -> Divergence | None:
    """The first divergence of the outputs; None if the whole output was compared and agrees."""
    if _whole_agrees(trace):
        return None
    whole = trace.whole.output
    place, after, before = _search(trace, TOP, _forward_step, reverse=False)
    while _passed_on(trace, place):
        after, before = None, trace.calls[place]
        place = before.parent
    output = whole if place == TOP else trace.calls[place].output
    agrees = output is not None and output.agrees and not trace.whole.note  # it was on the way back
    if trace.failure is not None and (output is None or agrees) and before is None:
        return _raised(trace)
    if place == TOP and not _differs(whole) and before is None:
        return _divergence(trace, TOP, "forward", "not comparable", None, None)
    found = _divergence(trace, place, "forward", "output", after, before)
    if trace.failure is not None:
        found = replace(found, notes=(*found.notes, str(trace.failure)))
    return found


def find_backward(trace: ModuleTrace) -> Divergence | None:
    """The first divergence of the gradients on the way back from the output."""
    if trace.failure is not None:
        return _raised(trace)
    whole = trace.whole
    if not trace.backward or not (_differs(whole.input_gradient) or _differs(whole.parameter_gradient)):
        return None
    place, after, before = _search(trace, TOP, _backward_step, reverse=True)
    row = whole if place == TOP else trace.calls[place]
    kind = "input gradient" if _differs(row.input_gradient) else "parameter gradient"
    return _divergence(trace, place, "backward", kind, after, before)


def _whole_agrees(trace: ModuleTrace) -> bool:
    """Whether the whole output was compared, and agrees."""
    whole = trace.whole
    return trace.failure is None and whole.output is not None and whole.output.agrees and not whole.note


Found = tuple[int, TracedCall | None, TracedCall | None]
"""The call at fault; the last of its submodules that is right; the one that was given something wrong."""


def _search(
    trace: ModuleTrace, place: int, step: Callable[[TracedCall], tuple[bool, bool]], reverse: bool
) -> Found:
    children = trace.children(place)
    after = None
    for below, child in reversed(children) if reverse else children:
        given_differs, gives_differs = step(child)
        if given_differs:
            return place, after, child
        if gives_differs:
            return _search(trace, below, step, reverse)
        if child.output is None:  # what it gave was not compared; what is in it may have been
            inside = _search(trace, below, step, reverse)
            if inside[0] != below:
                return inside
            if inside[2] is not None:
                return place, after, inside[2]
        after = child
    return place, after, None


def _forward_step(call: TracedCall) -> tuple[bool, bool]:
    raised = not (call.flax.finished and call.torch.finished)
    return _differs(call.inputs), raised or _differs(call.output)


def _backward_step(call: TracedCall) -> tuple[bool, bool]:
    gives = _differs(call.input_gradient) or _differs(call.parameter_gradient)
    return _differs(call.output_gradient), gives


def _passed_on(trace: ModuleTrace, place: int) -> bool:
    """Whether the call is right, and was given another mask, or other positions, than torch's was."""
    if place == TOP:
        return False
    call = trace.calls[place]
    return bool(call.other_inputs) and call.isolated is not None and call.isolated.agrees


def _differs(difference: Difference | None) -> bool:
    return difference is not None and not difference.agrees


def _divergence(
    trace: ModuleTrace,
    place: int,
    direction: str,
    kind: str,
    after: TracedCall | None,
    before: TracedCall | None,
) -> Divergence:
    row = trace.whole if place == TOP else trace.calls[place]
    forward = direction == "forward"
    difference = {
        "output": row.output,
        "input gradient": row.input_gradient,
        "parameter gradient": row.parameter_gradient,
    }.get(kind)
    handed = None
    if before is not None:
        handed = before.inputs if forward else before.output_gradient
    # The isolated run measures no masks.
    passed_on = before is not None and not _differs(handed)
    return Divergence(
        direction,
        kind,
        row.flax.path,
        row.torch.path,
        row.flax.kind or "the call",
        row.torch.kind or "the call",
        row.flax.number + 1,
        difference,
        row.inputs if forward else row.output_gradient,
        None if passed_on else row.isolated if forward else row.isolated_gradient,
        bool(trace.children(place)),
        tuple(_unseen(trace, place, row)),
        None if after is None else after.path,
        None if before is None else before.path,
        None if passed_on else handed,
        tuple(_notes(trace, row, before)),
    )


def _notes(trace: ModuleTrace, row: TracedCall, before: TracedCall | None) -> Iterable[str]:
    yield from trace.notes
    if row.note:
        yield f"not compared of its output: {row.note}"
    for call in [row] if before is None else [row, before]:
        for word in call.other_inputs:
            yield f"an input of {call.path or 'the module'} differs: {word}"


def _unseen(trace: ModuleTrace, place: int, row: TracedCall) -> Iterable[str]:
    """The calls inside one, and inside none of its submodules that were compared, not compared."""
    path = {"flax": row.flax.path, "torch": row.torch.path}
    children = [child for _, child in trace.children(place)]
    nearer = {"flax": [c.flax.path for c in children], "torch": [c.torch.path for c in children]}
    for side, name, reason in trace.left_out:
        inside = place == TOP or not path[side] or name.startswith(f"{path[side]}.")
        if inside and not any(name.startswith(f"{other}.") for other in nearer[side]):
            yield f"{name} of {side} ({reason})"
    for child in children:
        if child.output is None:
            yield f"{child.path} of flax ({child.note or 'it returns nothing to compare'})"


def _raised(trace: ModuleTrace) -> Divergence:
    failure = trace.failure
    assert failure is not None
    call = next((c for c in reversed(trace.calls) if getattr(c, failure.side).path == failure.path), None)
    if call is None:
        none = ("", "no counterpart")
        ends = {"flax": none, "torch": none, failure.side: (failure.path, failure.kind)}
    else:
        ends = {"flax": (call.flax.path, call.flax.kind), "torch": (call.torch.path, call.torch.kind)}
    (flax_path, flax_class), (torch_path, torch_class) = ends["flax"], ends["torch"]
    return Divergence(
        "forward" if trace.whole.output is None else "backward",
        "raised",
        flax_path,
        torch_path,
        flax_class,
        torch_class,
        1 if call is None else call.flax.number + 1,
        None,
        None if call is None else call.inputs,
        notes=(str(failure),),
    )
