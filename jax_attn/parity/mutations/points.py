"""Finds attention in what a module calls: in products, einsums, and torch's fused functions.

Queries are multiplied with keys, some of the scores are hidden, a softmax is taken, and the weights are
multiplied with values. What happens to the scores on their way to the softmax is remembered as a `Chain`, so
that a mutation can send other scores the same way.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from jax_attn.parity.mutations.injection import PASS, Forward, TorchCall
from jax_attn.parity.runners.torch_attention import attention_written_out

PRODUCTS = ("matmul", "__matmul__", "bmm", "baddbmm", "einsum")
SUMS = ("add", "__add__", "__radd__", "__iadd__", "add_")
FILLS = ("masked_fill", "masked_fill_", "where")
LOW = -1e3
"""A score below is one that is hidden."""


@dataclass(frozen=True)
class Step:
    """What was done to scores or weights.

    Attributes:
        do: does it again.
        hides: whether it was to hide some of them.
        bare: does it again without hiding any; None where nothing else was done.
    """

    do: Callable[[Any], Any]
    hides: bool = False
    bare: Callable[[Any], Any] | None = None


@dataclass(frozen=True)
class Chain:
    """Where scores come from, and what was done to them since.

    Attributes:
        queries: `(..., t, h)`.
        keys: `(..., h, s)`.
        back: turns their product into what the module made of it.
        steps: what was done since.
        hidden: the scores that were hidden, as a mask that broadcasts; None if none were.
        soft: whether a softmax is among the steps.
    """

    queries: Any
    keys: Any
    back: Callable[[Any], Any]
    steps: tuple[Step, ...] = ()
    hidden: Any = None
    soft: bool = False

    def then(self, step: Step, hidden: Any = None, soft: bool = False) -> "Chain":
        """The chain with one step more."""
        both = hidden if self.hidden is None else self.hidden if hidden is None else self.hidden | hidden
        return replace(self, steps=(*self.steps, step), hidden=both, soft=self.soft or soft)

    def replay(self, product: Any, *, hiding: bool = True) -> Any:
        """Another product of queries and keys, with the same done to it."""
        value = self.back(product)
        for step in self.steps:
            if hiding or not step.hides:
                value = step.do(value)
            elif step.bare is not None:
                value = step.bare(value)
        return value

    @property
    def plain(self) -> Any:
        """The scores, none of them hidden."""
        return self.replay(self.queries @ self.keys, hiding=False)


@dataclass(frozen=True)
class Points:
    """What happens at the points of attention; None is what ought to.

    Attributes:
        scores: `(forward, chain, product)` to the product of the chain's queries and keys.
        soft: `(forward, chain, scores, dim)` to weights, or PASS; the chain is None where it is not known.
        mix: `(forward, chain, weights, values)` to context.
        prefers: `(forward, chain)`, whether its product is the one to be followed where scores are a sum of two.
        own_masks: whether `soft` sees to what is hidden: then no weights are set to zero after it.
    """

    scores: Callable[..., Any] | None = None
    soft: Callable[..., Any] | None = None
    mix: Callable[..., Any] | None = None
    prefers: Callable[..., bool] = lambda forward, chain: True
    own_masks: bool = False

    def __call__(self, call: TorchCall) -> Any:
        """See what a torch function is to attention, and act there."""
        if call.name == "scaled_dot_product_attention":
            with call.forward.mode:
                return attention_written_out(*call.args, **call.kwargs)
        chains = call.state.setdefault("chains", {})
        found = [value for value in call.values if id(value) in chains]
        preferred = (value for value in found if self.prefers(call.forward, chains[id(value)][1]))
        at = next(preferred, found[0] if found else None)
        chain = None if at is None else chains[id(at)][1]
        if call.name in PRODUCTS and (chain is None or chain.soft):
            return self._product(call, chain)
        if call.name == "softmax" and any(hasattr(value, "shape") for value in call.values):
            return self._softmax(call, chain)
        if chain is None or at is None:
            return PASS
        if chain.soft and self.own_masks and call.name in (*FILLS, "nan_to_num"):
            call.state["filled"] = True
            return at

        def do(value: Any) -> Any:
            args = (value if arg is at else arg for arg in call.args)
            return call.function(*args, **{k: value if arg is at else arg for k, arg in call.kwargs.items()})

        step, hidden = (Step(do), None) if chain.soft else _seen(call.name, do, at, call.args)
        value = do(at)
        if _is_like(value, at):
            _keep(call.forward, value, chain.then(step, hidden))
        return value

    def _product(self, call: TorchCall, chain: Chain | None) -> Any:
        mask, args = None, call.args
        if call.name == "baddbmm":  # a mask and a product at once
            mask, args = args[0], args[1:3]
        found = operands(call.name, args)
        if found is None:
            return PASS
        left, right, back = found
        if chain is not None:
            if self.mix is None or id(args[call.name == "einsum"]) not in call.state["chains"]:
                return PASS
            return back(self.mix(call.forward, chain, left, right))
        value = left @ right if mask is not None else call.run()
        chain = Chain(left, right, back)
        if mask is not None:
            step, hidden = _added(mask, lambda scores: scores + mask)
            value, chain = step.do(value), chain.then(step, hidden)
        _keep(call.forward, value, chain)
        return value

    def _softmax(self, call: TorchCall, chain: Chain | None) -> Any:
        scores, *rest = call.args

        def do(value: Any) -> Any:
            return call.function(value, *rest, **call.kwargs)

        if chain is not None and self.scores is not None:
            product = chain.queries @ chain.keys
            scores = chain.replay(self.scores(call.forward, chain, product))
        weights = PASS
        if self.soft is not None:
            dim = call.kwargs.get("dim", rest[0] if rest else -1)
            weights = self.soft(call.forward, chain, scores, dim)
        weights = do(scores) if weights is PASS else weights
        if chain is not None:
            _keep(call.forward, weights, chain.then(Step(do), soft=True))
        return weights


def _keep(forward: Forward, value: Any, chain: Chain) -> None:
    """By its identity: the tensor is kept, lest another take its place."""
    forward.state["chains"][id(value)] = value, chain


def operands(name: str, args: Any) -> tuple[Any, Any, Callable[[Any], Any]] | None:
    """`(..., t, h)` and `(..., h, s)`, and what turns their product into the function's; None for weights."""
    import torch

    if name == "einsum":
        equation, *tensors = args
        tensors = list(tensors[0]) if len(tensors) == 1 and isinstance(tensors[0], tuple | list) else tensors
    else:
        equation, tensors = "", list(args[:2])
    if len(tensors) != 2 or not all(isinstance(t, torch.Tensor) and t.ndim > 1 for t in tensors):
        return None
    if any(isinstance(t, torch.nn.Parameter) for t in tensors):
        return None
    if not equation:
        return tensors[0], tensors[1], lambda product: product
    inputs, _, output = equation.replace(" ", "").partition("->")
    left, _, right = inputs.partition(",")
    if not output or "." in equation:
        return None
    both = "".join(letter for letter in output if letter in left and letter in right)
    inner = "".join(letter for letter in left if letter in right and letter not in output)
    rows = "".join(letter for letter in left if letter not in right)
    columns = "".join(letter for letter in right if letter not in left)
    if any(len(part) != 1 for part in (inner, rows, columns)):
        return None
    return (
        torch.einsum(f"{left}->{both}{rows}{inner}", tensors[0]),
        torch.einsum(f"{right}->{both}{inner}{columns}", tensors[1]),
        lambda product: torch.einsum(f"{both}{rows}{columns}->{output}", product),
    )


def _seen(name: str, do: Callable[[Any], Any], scores: Any, args: Any) -> tuple[Step, Any]:
    """What a function does to scores, and what it hides of them: every way to hide, as one."""
    if name in FILLS and len(args) > 2:
        if name == "where":
            kept = args[1] is scores
            hidden, fill = (~args[0], args[2]) if kept else (args[0], args[1])
        else:
            hidden, fill = args[1], args[2]
        if not hasattr(fill, "shape") or fill.ndim == 0 or _is_low(fill):
            return Step(do, hides=True), hidden if _is_low(fill) else None
    if name in SUMS and all(hasattr(value, "shape") for value in args[:2]):
        return _added(args[1] if args[0] is scores else args[0], do)
    return Step(do), None


def _added(mask: Any, do: Callable[[Any], Any]) -> tuple[Step, Any]:
    """A tensor that is added: where it is low, it hides; elsewhere it is a bias."""
    hidden = mask < LOW
    if not hidden.any():
        return Step(do), None
    return Step(do, True, lambda scores: scores + mask.masked_fill(hidden, 0.0)), hidden


def _is_low(fill: Any) -> bool:
    """Whether a number, or a tensor of them, is what hides a score."""
    return bool((fill < LOW).all()) if hasattr(fill, "all") else fill < LOW


def _is_like(value: Any, tensor: Any) -> bool:
    """Whether a value is a floating tensor with the same last axis."""
    import torch

    floating = isinstance(value, torch.Tensor) and value.is_floating_point()
    return floating and value.shape[-1:] == tensor.shape[-1:]


def heads_apart(forward: Forward, x: Any) -> Any | None:
    """`(b, n, t, h)`, also of torch's own `(b n, t, h)`; None where there are no heads, or one."""
    import torch

    if x.ndim == 3:
        known = {
            child.num_heads
            for child in forward.module.modules()
            if isinstance(child, torch.nn.MultiheadAttention)
        }
        if len(known) != 1 or x.shape[0] % max(known):
            return None
        x = x.unflatten(0, (-1, max(known)))
    return x if x.ndim == 4 and x.shape[-3] > 1 else None


def lowest(scores: Any, hidden: Any) -> Any:
    """The lowest number there is, short of -inf, where scores are hidden."""
    import torch

    return scores.masked_fill(hidden, torch.finfo(scores.dtype).min)
