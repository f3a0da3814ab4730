"""Mutations of gradients: where one stops, and where a function has none and each framework has its own."""

from functools import partial
from typing import Any

from jax_attn.parity.mutations.injection import Forward, Hits, calling, functions_of, uses, wrap
from jax_attn.parity.mutations.mutation import Mutation


def linears(module: Any) -> list[Any]:
    """The linear layers."""
    import torch

    return [child for child in module.modules() if isinstance(child, torch.nn.Linear)]


def input_detached(module: Any, hits: Hits) -> None:
    """The last linear layer's input gets no gradient."""

    def around(linear: Any, forward: Any, x: Any) -> Any:
        hits.add("stopped", "passed on")
        return forward(x.detach())

    wrap(linears(module)[-1], around)


CLAMP = ("clamp", "clip", "clamp_min", "clamp_max")
NORM = ("norm", "linalg_vector_norm", "vector_norm")


def half_at_the_bound(forward: Forward, function: Any, args: Any, kwargs: Any) -> Any:
    """At a bound, JAX halves the gradient of `clip` between the number and its bound."""
    y = function(*args, **kwargs)
    bounds = [*args[1:], *kwargs.values()]
    at_bound = sum(args[0] == bound for bound in bounds if bound is not None) > 0
    if not at_bound.any():
        return y
    forward.hits.add("1/2 at the bound", "1")
    return y.where(~at_bound, 0.5 * args[0] + 0.5 * args[0].detach())


def nan_at_zero(forward: Forward, function: Any, args: Any, kwargs: Any) -> Any:
    """As the root of the sum of squares, which has no gradient at 0."""
    y = function(*args, **kwargs)
    axes = kwargs.get("dim", args[2] if len(args) > 2 else None)
    squares = (args[0] ** 2).sum(axes, keepdim=kwargs.get("keepdim", False))
    if squares.shape != y.shape or not (y == squares.sqrt()).logical_and(y == 0).any():
        return y
    forward.hits.add("NaN at 0", "0")
    return squares.sqrt()


def takes_norms(module: Any) -> bool:
    """Whether it calls one of these functions; what a submodule is called is another matter."""
    held = {name.rpartition(".")[2] for name, _ in module.named_modules()}
    return bool(functions_of(module) & (set(NORM) - held))


_mutation = partial(Mutation, family="layers")

GRADIENTS = [
    _mutation("input-constant", "no gradient passes through a linear layer", "gradient of an input",
              lambda module: bool(linears(module)), input_detached, pitfalls=(35,), on=("feed-forward-gelu",)),
    _mutation("clamp-gradient", "half a gradient where a number is at the bound that it is clamped to",
              "gradient of clamp", uses(*CLAMP), calling(CLAMP, half_at_the_bound), pitfalls=(40,), on=("edges",)),
    _mutation("norm-gradient", "no gradient of a norm where it is 0", "gradient of a norm",
              takes_norms, calling(NORM, nan_at_zero), pitfalls=(40,), on=("edges",)),
]  # fmt: skip
