"""Mutations of blocks: where the norms stand, and what is added to what.

A block hands a stream on from one skip connection to the next. It is known by the tensors themselves: the
input, each sum with a branch, and, in post-norm, what the norm makes of the sum.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from jax_attn.parity.mutations.injection import LOOKED_AT, PASS, Forward, Hits, wrap
from jax_attn.parity.mutations.mutation import Mutation
from jax_attn.parity.mutations.norms import is_norm

ADD = ("add", "__add__", "__radd__", "__iadd__", "add_")


class Block:
    """One pass through a block, in which a mutation hits.

    Attributes:
        hits: takes note where it hits.
        norms: the block's own normalisations, in order of definition.
        stream: the tensors that the next branch may be added to.
        sums: how many were added already.
        called: how many norms were called already.
        normed: what a norm made of the stream, by identity.
    """

    def __init__(self, hits: Hits):
        self.hits = hits
        self.norms: list[Any] = []
        self.stream: list[Any] = []
        self.sums = 0
        self.called = 0
        self.normed: dict[int, tuple[Any, Any]] = {}
        self.running: Forward | None = None

    def start(self, inputs: list[Any]) -> None:
        """Begin a pass."""
        self.stream, self.sums, self.called, self.normed = [x for x in inputs if _floats(x)][:1], 0, 0, {}

    def at(self, value: Any) -> bool:
        """Whether a tensor is the stream."""
        return any(value is tensor for tensor in self.stream)

    def norm(self, forward: Callable[[Any], Any], x: Any) -> Any:
        """A norm is called."""
        self.called += 1
        value = forward(x)
        if self.at(x):
            if self.sums >= self.called:  # after a sum: post-norm
                self.stream.append(value)
            self.normed[id(value)] = value, x
        return value

    def function(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Anything else is called."""
        return PASS

    def sum(self, own: Any, branch: Any) -> Any:
        """A branch is added to the stream, or to what a norm made of it."""
        return own + branch


def _floats(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim > 1


class SkipMissing(Block):
    """The n-th branch is not added to anything."""

    number = 1

    def sum(self, own: Any, branch: Any) -> Any:
        """The branch alone."""
        if self.sums != self.number:
            return own + branch
        self.hits.add("f(x)", "x + f(x)")
        return branch * 1


class SecondSkipMissing(SkipMissing):
    """The second branch."""

    number = 2


class SkipNormed(Block):
    """What is added to is the norm of the stream."""

    alone = False
    """Whether the first skip connection only."""

    def sum(self, own: Any, branch: Any) -> Any:
        """The norm's output and the branch."""
        normed = [value for value, x in self.normed.values() if x is own]
        if not normed or (self.alone and self.sums > 1):
            return own + branch
        self.hits.add("norm(x) + f(norm(x))", "x + f(norm(x))")
        return normed[-1] + branch


class FirstSkipNormed(SkipNormed):
    """The first alone."""

    alone = True


class Parallel(Block):
    """Every branch starts from the block's input."""

    def start(self, inputs: list[Any]) -> None:
        """Begin a pass."""
        super().start(inputs)
        self.given, self.pre = self.stream[:1], False

    def norm(self, forward: Callable[[Any], Any], x: Any) -> Any:
        """In pre-norm, that of a later branch is given what that of the first is."""
        if self.at(x) and not self.sums:
            self.pre = True
        elif self.at(x) and self.pre and self.given:
            self.hits.add("parallel: every branch starts from the same x", "serial: each from the sum before")
            value = forward(self.given[0])
            self.normed[id(value)] = value, x
            return value
        return super().norm(forward, x)


class OtherPlacement(Block):
    """Pre-norm for post-norm, and the other way round."""

    def start(self, inputs: list[Any]) -> None:
        """Begin a pass: it is not known yet which it is."""
        super().start(inputs)
        self.pre: bool | None = None
        self.waiting: Callable[[Any], Any] | None = None
        self.inside: dict[int, Any] = {}

    def norm(self, forward: Callable[[Any], Any], x: Any) -> Any:
        """In pre-norm it waits for the sum; in post-norm it came before the branch."""
        self.called += 1
        if self.pre is None:
            self.pre = self.at(x) and self.sums == 0
        if not self.at(x):
            return forward(x)
        if self.pre:
            self.waiting = forward
        else:
            self.inside = {}
        return x

    def function(self, function: Any, args: Any, kwargs: Any) -> Any:
        """In post-norm, what a branch begins with gets the norm of the stream."""
        if self.pre is None and any(self.at(arg) for arg in args):
            self.pre = False
        if self.pre is not False or self.called >= len(self.norms):
            return PASS
        if not any(self.at(value) for value in (*args, *kwargs.values())):
            return PASS
        self.hits.add("pre-norm", "post-norm")
        return function(*map(self._normed, args), **{key: self._normed(v) for key, v in kwargs.items()})

    def _normed(self, value: Any) -> Any:
        if not self.at(value):
            return value
        if id(value) not in self.inside:
            kind = type(self.norms[self.called])
            plain = kind.__mro__[1].forward  # the norm itself is wrapped
            self.inside[id(value)] = plain(self.norms[self.called], value)
        return self.inside[id(value)]

    def sum(self, own: Any, branch: Any) -> Any:
        """In pre-norm the norm comes after the sum."""
        if not self.pre or self.waiting is None:
            return own + branch
        self.hits.add("post-norm", "pre-norm")
        norm, self.waiting = self.waiting, None
        return norm(own + branch)


@dataclass(frozen=True)
class _Change:
    """What `Forward` asks of every function that is called in a block."""

    block: Block

    def __call__(
        self, forward: Forward, name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        import torch

        block = self.block
        if name in LOOKED_AT:
            return PASS
        if name in ADD and len(args) > 1 and all(_floats(arg) for arg in args[:2]):
            for own, branch in (args[:2], args[1::-1]):
                if block.at(own) and own.shape == branch.shape and not isinstance(branch, torch.nn.Parameter):
                    block.sums += 1
                    value = block.sum(own, branch)
                    block.stream = [value]
                    return value
        return block.function(function, args, kwargs)


def blocks_of(module: Any) -> list[Any]:
    """The modules that have norms of their own, and something else to call."""
    found = []
    for child in module.modules():
        children = list(child.children())
        if any(map(is_norm, children)) and not all(map(is_norm, children)):
            found.append(child)
    return found


def injector(kind: Callable[[Hits], Block]) -> Callable[[Any, Hits], None]:
    """The mutation in every block."""

    def inject(module: Any, hits: Hits) -> None:
        for child in blocks_of(module):
            block = kind(hits)
            for norm in filter(is_norm, list(child.children())):
                wrap(norm, partial(_around_norm, block))
            wrap(child, partial(_around, block))

    return inject


def _around(block: Block, module: Any, forward: Any, *args: Any, **kwargs: Any) -> Any:
    given = [*args, *kwargs.values()]
    block.norms = [norm for norm in module.children() if is_norm(norm)]
    block.start(given)
    block.running = Forward(module, given, block.hits, _Change(block))
    try:
        with block.running.mode:
            return forward(*args, **kwargs)
    finally:
        block.running = None


def _around_norm(block: Block, norm: Any, forward: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    if block.running is None:
        return forward(x, *args, **kwargs)
    return block.norm(lambda value: forward(value, *args, **kwargs), x)


def has_blocks(module: Any) -> bool:
    """Whether there is a block with a norm in a module."""
    return bool(blocks_of(module))


_mutation = partial(Mutation, family="layers")


SKIP = "skip connection"

PRE, BOTH = ("encoder-layer-pre",), ("encoder-layer-post", "encoder-layer-pre")

RESIDUAL = [
    _mutation("norm-placement", "pre-norm for post-norm, or the other way round", "norm placement", has_blocks,
              injector(OtherPlacement), on=(*BOTH, "decoder layer")),
    _mutation("block-parallel", "branches in parallel for one after the other", "order of branches", has_blocks,
              injector(Parallel), on=("decoder layer",)),
    _mutation("skip-missing", "the first skip connection is left out", SKIP, has_blocks,
              injector(SkipMissing), on=BOTH),
    _mutation("second-skip-missing", "the second skip connection is left out", SKIP, has_blocks,
              injector(SecondSkipMissing), on=BOTH),
    _mutation("skip-normed", "the skip connections start after the norm", SKIP, has_blocks,
              injector(SkipNormed), on=PRE),
    _mutation("first-skip-normed", "the first skip connection starts after the norm", SKIP, has_blocks,
              injector(FirstSkipNormed), on=PRE),
]  # fmt: skip
