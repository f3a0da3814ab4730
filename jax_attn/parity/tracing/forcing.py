"""Teacher forcing: every submodule of Flax is fed what its counterpart in torch was fed.

Its inputs are torch's, and what its own submodules return is torch's too. So the error of what it returns,
and of what it hands to its submodules, is its own doing: what it inherits is gone. Backward likewise.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jax_attn.parity.tracing.differences import Difference, Matched, measure, worst
from jax_attn.parity.tracing.observers import AnyArray, GradientObserver, Observer, seen
from jax_attn.parity.tracing.recording import CallRecord, is_float, named_tensors, opened, replace_tensors


@dataclass(frozen=True)
class Lesson:
    """What a call should have been given and should have returned.

    Attributes:
        torch: the call in torch.
        inputs: inputs that are paired.
        outputs: outputs that are paired.
        alone: (name, side) of inputs that only one side was given, though both know the name.
        parent: index of the paired call in Flax that makes this one.
    """

    torch: CallRecord
    inputs: list[Matched]
    outputs: list[Matched]
    alone: tuple[tuple[str, str], ...] = ()
    parent: int | None = None


class Errors:
    """Each call's own errors, by the call's index."""

    def __init__(self) -> None:
        self.found: dict[int, list[Difference]] = {}

    def add(self, index: int, difference: Difference, name: str = "") -> None:
        """One more of a call."""
        self.found.setdefault(index, []).append(replace(difference, name=name or difference.name))

    def worst(self, index: int) -> Difference | None:
        """The worst of a call; None if there is none."""
        return worst(self.found.get(index, []))


class Teacher(Observer):
    """Forces the forward pass. `errors` holds each call's own."""

    def __init__(self, lessons: Mapping[int, Lesson], bound: float):
        self.lessons = lessons
        self.bound = bound
        self.start()

    def start(self) -> None:
        """A run begins."""
        self.errors = Errors()

    def given(self, call: CallRecord, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Torch's inputs."""
        lesson = self.lessons.get(call.index)
        if lesson is None:
            return args, kwargs
        source = {m.flax: m for m in lesson.inputs if m.layout is not None and m.sure}
        given = named_tensors(call.parameters, args, kwargs)
        for name, matched in source.items():
            if lesson.parent is not None and is_float(given[name]):
                theirs = lesson.torch.inputs[matched.torch]
                difference, _ = measure(name, seen(given[name]), theirs, self.bound)
                self.errors.add(lesson.parent, difference, f"{name} of {call.path}")
        args, kwargs = replace_tensors(call.parameters, args, kwargs, partial(_torchs, lesson, source, {}))
        for name, side in lesson.alone:
            if name in call.parameters:
                value = jnp.asarray(lesson.torch.inputs[name]) if side == "torch" else None
                args, kwargs = _set(call.parameters.index(name), name, value, args, kwargs)
        return args, kwargs

    def returned(self, call: CallRecord, value: Any) -> Any:
        """Torch's outputs, after the call's own were measured."""
        lesson = self.lessons.get(call.index)
        if lesson is None or not lesson.outputs:
            return value
        _, tensors = opened(value)
        instead = {}
        for matched in lesson.outputs:
            theirs, ours = lesson.torch.outputs[matched.torch], tensors[matched.flax]
            difference, layout = measure(matched.difference.name, seen(ours), theirs, self.bound)
            self.errors.add(call.index, difference)
            if layout is not None and hasattr(ours, "dtype"):
                instead[id(ours)] = jnp.asarray(layout.of(theirs), ours.dtype)
        return jax.tree.map(lambda leaf: instead.get(id(leaf), leaf), value)


class GradientTeacher(GradientObserver):
    """Forces the backward pass: the gradients of a call's outputs are torch's."""

    def __init__(self, lessons: Mapping[int, Lesson]):
        self.lessons = lessons

    def at(self, call: CallRecord, key: str | int, gradient: AnyArray) -> AnyArray:
        """Hand on torch's gradient, after the call's own was kept."""
        super().at(call, key, gradient)
        lesson = self.lessons.get(call.index)
        pairs = (*lesson.inputs, *lesson.outputs) if lesson else ()
        matched = next((m for m in pairs if m.flax == key), None)
        if lesson is None or matched is None or matched.torch in lesson.torch.unwatched:
            return gradient
        if matched.layout is None or not is_float(gradient):
            return gradient
        theirs = lesson.torch.gradients.get(matched.torch)
        if theirs is None:
            return jnp.zeros_like(gradient)
        return jnp.asarray(matched.layout.of(theirs), gradient.dtype)


def _torchs(
    lesson: Lesson, source: Mapping[str, Matched], made: dict[Any, jax.Array], name: str, leaf: Any
) -> Any:
    """Torch's tensor in place of a leaf. What it gave twice stays one: modules ask for `key is query`."""
    matched = source.get(name)
    if matched is None or matched.layout is None:
        return leaf
    array = lesson.torch.inputs[matched.torch]
    if not hasattr(leaf, "dtype"):
        return type(leaf)(array.item())
    key = array.__array_interface__["data"][0], matched.layout
    if key not in made:
        made[key] = jnp.asarray(matched.layout.of(array), leaf.dtype)
    return made[key]


def _set(position: int, name: str, value: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    if position < len(args):
        return (*args[:position], value, *args[position + 1 :]), kwargs
    return args, {**kwargs, name: value}
