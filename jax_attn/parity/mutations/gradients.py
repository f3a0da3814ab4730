"""Mutations of gradients: where one stops, and where a function has none and each framework has its own."""

from typing import Any

from jax_attn.parity.mutations.calls import functions_of, is_attention, uses
from jax_attn.parity.mutations.injection import PASS, Forward, Hits, TorchCall, calling, watching, wrapping
from jax_attn.parity.mutations.mutation import Mutation
from jax_attn.parity.mutations.points import Chain, Points


def linears(module: Any) -> list[Any]:
    """The linear layers."""
    import torch

    return [child for child in module.modules() if isinstance(child, torch.nn.Linear)]


def input_detached(hits: Hits, linear: Any, forward: Any, x: Any) -> Any:
    """The linear layer's input gets no gradient."""
    hits.add("stopped", "passed on")
    return forward(x.detach())


def weights_detached(forward: Forward, chain: Chain | None, scores: Any, dim: int) -> Any:
    """Queries and keys get no gradient, for none passes through the weights."""
    if chain is None:
        return PASS
    forward.hits.add("stopped", "passed on")
    return scores.softmax(dim).detach()


CLAMP = ("clamp", "clip", "clamp_min", "clamp_max")
NORM = ("norm", "linalg_vector_norm", "vector_norm")


def half_at_the_bound(call: TorchCall) -> Any:
    """At a bound, JAX halves the gradient of `clip` between the number and its bound."""
    y, (x, *bounds) = call.run(), call.values
    at_bound = sum(x == bound for bound in bounds if bound is not None) > 0
    if not at_bound.any():
        return y
    call.hits.add("1/2 at the bound", "1")
    return y.where(~at_bound, 0.5 * x + 0.5 * x.detach())


def nan_at_zero(call: TorchCall) -> Any:
    """As the root of the sum of squares, which has no gradient at 0."""
    y, given = call.run(), call.named("x", "p", "dim", "keepdim")
    squares = (given["x"] ** 2).sum(given.get("dim"), keepdim=given.get("keepdim", False))
    if squares.shape != y.shape or not (y == squares.sqrt()).logical_and(y == 0).any():
        return y
    call.hits.add("NaN at 0", "0")
    return squares.sqrt()


def takes_norms(module: Any) -> bool:
    """Whether it calls one of these functions; what a submodule is called is another matter."""
    held = {name.rpartition(".")[2] for name, _ in module.named_modules()}
    return bool(functions_of(module) & (set(NORM) - held))


GRADIENTS = [
    Mutation("input-constant", "no gradient passes through a linear layer", "gradient of an input",
             linears, wrapping(lambda module: linears(module)[-1:], input_detached), family="layers",
             on=("feed-forward-gelu",)),
    Mutation("attention-weights-constant", "no gradient passes through attention's weights",
             "gradient of attention weights", is_attention, watching(Points(soft=weights_detached)),
             family="layers", on=("attention-masked",)),
    Mutation("clamp-gradient", "half a gradient where a number is at the bound that it is clamped to",
             "gradient of clamp", uses(*CLAMP), calling(CLAMP, half_at_the_bound),
             family="layers", on=("edges",)),
    Mutation("norm-gradient", "no gradient of a norm where it is 0", "gradient of a norm",
             takes_norms, calling(NORM, nan_at_zero), family="layers", on=("edges",)),
]  # fmt: skip
