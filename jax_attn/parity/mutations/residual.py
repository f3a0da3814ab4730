"""Mutations of blocks: where the norms stand, and what is added to what.

A block hands a stream on from one skip connection to the next. It is known by the tensors themselves: the
input, each sum with a branch, and, in post-norm, what the norm makes of the sum.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from jax_attn.parity.mutations.calls import MULTIPLY
from jax_attn.parity.mutations.injection import LOOKED_AT, PASS, Forward, Hits, TorchCall, watching, wrap
from jax_attn.parity.mutations.mutation import Injector, Mutation
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

    def function(self, call: TorchCall) -> Any:
        """Anything else is called."""
        return PASS

    def sum(self, own: Any, branch: Any) -> Any:
        """A branch is added to the stream, or to what a norm made of it."""
        return own + branch

    def multiple(self, call: TorchCall, own: Any, number: float) -> Any:
        """The stream is multiplied by a number: a branch may be added to that."""
        value = call.run()
        self.stream.append(value)
        return value

    def __call__(self, call: TorchCall) -> Any:
        """See what a function is to the block, and act there."""
        import torch

        if call.name in LOOKED_AT:
            return PASS
        if call.name in ADD and len(call.args) > 1 and all(_floats(arg) for arg in call.args[:2]):
            for own, branch in (call.args[:2], call.args[1::-1]):
                if self.at(own) and own.shape == branch.shape and not isinstance(branch, torch.nn.Parameter):
                    self.sums += 1
                    value = self.sum(own, branch)
                    self.stream = [value]
                    return value
        if call.name in MULTIPLY and len(call.args) > 1:
            for own, number in (call.args[:2], call.args[1::-1]):
                if self.at(own) and isinstance(number, int | float):
                    return self.multiple(call, own, number)
        return self.function(call)


def _floats(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim > 1


class SkipMissing(Block):
    """The n-th branch is not added to anything."""

    def __init__(self, hits: Hits, number: int):
        super().__init__(hits)
        self.number = number

    def sum(self, own: Any, branch: Any) -> Any:
        """The branch alone."""
        if self.sums != self.number:
            return own + branch
        self.hits.add("f(x)", "x + f(x)")
        return branch * 1


class SkipNormed(Block):
    """What is added to, in all skip connections or the `first` alone, is the norm of the stream."""

    def __init__(self, hits: Hits, first: bool):
        super().__init__(hits)
        self.first = first

    def sum(self, own: Any, branch: Any) -> Any:
        """The norm's output and the branch."""
        normed = [value for value, x in self.normed.values() if x is own]
        if not normed or (self.first and self.sums > 1):
            return own + branch
        self.hits.add("norm(x) + f(norm(x))", "x + f(norm(x))")
        return normed[-1] + branch


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

    def function(self, call: TorchCall) -> Any:
        """In post-norm, what a branch begins with gets the norm of the stream."""
        if self.pre is None and any(map(self.at, call.args)):
            self.pre = False
        if self.pre is not False or self.called >= len(self.norms) or not any(map(self.at, call.values)):
            return PASS
        self.hits.add("pre-norm", "post-norm")
        kwargs = {key: self._normed(value) for key, value in call.kwargs.items()}
        return call.function(*map(self._normed, call.args), **kwargs)

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


class BranchNormMissing(Block):
    """A branch is added as it is, not the norm of it."""

    def norm(self, forward: Callable[[Any], Any], x: Any) -> Any:
        """Remember what a norm was given."""
        value = super().norm(forward, x)
        if not self.at(x):
            self.normed[id(value)] = value, x
        return value

    def sum(self, own: Any, branch: Any) -> Any:
        """The sum with what the branch's norm was given."""
        if id(branch) not in self.normed:
            return own + branch
        self.hits.add("x + f(norm(x))", "x + norm(f(norm(x)))")
        return own + self.normed[id(branch)][1]


class Unweighted(Block):
    """The skip connection is not multiplied by a number."""

    def multiple(self, call: TorchCall, own: Any, number: float) -> Any:
        """The stream for a multiple of it."""
        if number == 1:
            return super().multiple(call, own, number)
        self.hits.add("x + f(x)", f"{number:g} x + f(x)")
        return own


def branch_scales(module: Any) -> list[Any]:
    """Vectors that are neither biases nor a norm's."""
    return [
        parameter
        for child in module.modules()
        if not is_norm(child)
        for name, parameter in child.named_parameters(recurse=False)
        if parameter.ndim == 1 and "bias" not in name
    ]


def unscaled(call: TorchCall) -> Any:
    """A branch is not multiplied by the vector that is learned for it."""
    if "scales" not in call.state:
        call.state["scales"] = {id(p): p for p in branch_scales(call.forward.module)}
    scales = call.state["scales"]
    if call.name in MULTIPLY and len(call.args) > 1:
        for x, scale in (call.args[:2], call.args[1::-1]):
            if id(scale) in scales and _floats(x) and x.shape[-1:] == scale.shape:
                call.hits.add("none", "a learned factor for each feature of a branch")
                return x * 1
    return PASS


def blocks_of(module: Any) -> list[Any]:
    """The modules that have norms of their own, and something else to call."""
    found = []
    for child in module.modules():
        children = list(child.children())
        if any(map(is_norm, children)) and not all(map(is_norm, children)):
            found.append(child)
    return found


def _injector(kind: Callable[[Hits], Block]) -> Injector:
    """The mutation in every block."""

    def inject(module: Any, hits: Hits) -> None:
        for child in blocks_of(module):
            block = kind(hits)
            for norm in filter(is_norm, list(child.children())):
                wrap(norm, partial(_around_norm, block))
            wrap(child, partial(_around, block))

    return inject


def _around(block: Block, module: Any, forward: Any, *args: Any, **kwargs: Any) -> Any:
    block.norms = [norm for norm in module.children() if is_norm(norm)]
    block.start([*args, *kwargs.values()])
    block.running = Forward(module, block.hits, block)
    try:
        with block.running.mode:
            return forward(*args, **kwargs)
    finally:
        block.running = None


def _around_norm(block: Block, norm: Any, forward: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
    if block.running is None:
        return forward(x, *args, **kwargs)
    return block.norm(lambda value: forward(value, *args, **kwargs), x)


def _mutation(name: str, summary: str, setting: str, kind: Callable[[Hits], Block], *on: str) -> Mutation:
    return Mutation(name, summary, setting, blocks_of, _injector(kind), family="layers", on=on)


SKIP = "skip connection"
PRE, POST = "encoder-layer-pre", "encoder-layer-post"

RESIDUAL = [
    _mutation("norm-placement", "pre-norm for post-norm, or the other way round", "norm placement",
              OtherPlacement, POST, PRE, "decoder layer"),
    _mutation("block-parallel", "branches in parallel for one after the other", "order of branches", Parallel,
              "decoder layer"),
    _mutation("skip-missing", "the first skip connection is left out", SKIP,
              partial(SkipMissing, number=1), POST, PRE),
    _mutation("second-skip-missing", "the second skip connection is left out", SKIP,
              partial(SkipMissing, number=2), POST, PRE),
    _mutation("skip-normed", "the skip connections start after the norm", SKIP,
              partial(SkipNormed, first=False), PRE),
    _mutation("first-skip-normed", "the first skip connection starts after the norm", SKIP,
              partial(SkipNormed, first=True), PRE),
    _mutation("skip-unweighted", "the skip connection is not multiplied by a number", SKIP, Unweighted,
              "encoder-layer-deepnorm"),
    _mutation("branch-norm-missing", "what a branch gives is not normalised", "normalisation", BranchNormMissing,
              "encoder-layer-sandwich"),
    Mutation("layer-scale-missing", "branches are not multiplied by a learned factor", "layer scale",
             branch_scales, watching(unscaled), family="layers", on=("encoder-layer-scaled",)),
]  # fmt: skip
