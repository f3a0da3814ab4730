"""Mutations in how weights are used: each is another tensor in place of a parameter or buffer, wherever used.

The parameter itself stays as it is: a comparison hands the weights on to the other side.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from jax_attn.parity.mutations.calls import is_attention
from jax_attn.parity.mutations.injection import PASS, Forward, Hits, TorchCall, watch, watching, wrapping
from jax_attn.parity.mutations.mutation import Injector, Mutation
from jax_attn.parity.mutations.norms import norms_of
from jax_attn.parity.mutations.points import Points, heads_apart

Select = Callable[[Any], list[Any]]
"""Of a module: the tensors of which others take the place."""


class Substitute:
    """Puts `change(tensor)` in place of the tensors that `select` names.

    Args:
        select: which.
        change: what takes their place.
        words: what a diagnosis says: with the mutation, and without.
    """

    def __init__(self, select: Select, change: Callable[[Any], Any], words: tuple[str, str]):
        self.select = select
        self.change = change
        self.words = words

    def __call__(self, call: TorchCall) -> Any:
        """Call the function with the other tensors, if it was given one of those."""
        forward = call.forward
        if "chosen" not in call.state:
            call.state["chosen"] = {id(tensor): tensor for tensor in self.select(forward.module)}
        chosen = call.state["chosen"]

        def instead(value: Any) -> Any:
            if isinstance(value, list | tuple):
                return type(value)(map(instead, value)) if type(value) in (list, tuple) else value
            if id(value) not in chosen:
                return value
            forward.hits.add(*self.words)
            return self.change(chosen[id(value)])

        if call.name == "__get__" and id(call.args[0]) in chosen and "shape" in str(call.function):
            return PASS
        inside = [part for value in call.values if isinstance(value, list | tuple) for part in value]
        if not any(id(value) in chosen for value in (*call.values, *inside)):
            return PASS
        kwargs = {key: instead(value) for key, value in call.kwargs.items()}
        return replace(call, args=tuple(map(instead, call.args)), kwargs=kwargs).run()

    def inject(self, module: Any, hits: Hits) -> None:
        """Put it into a module."""
        watch(module, self, hits)


def square(module: Any) -> list[Any]:
    """The first square weight that is a matrix product's."""
    import torch

    layers = (child for child in module.modules() if not isinstance(child, torch.nn.Embedding))
    own = (parameter for child in layers for parameter in child.parameters(recurse=False))
    return [p for p in own if p.ndim == 2 and p.shape[0] == p.shape[1]][:1]


def bias(module: Any) -> list[Any]:
    """The last bias of a linear layer, or the one tensor that is called so."""
    import torch

    linears = [child for child in module.modules() if isinstance(child, torch.nn.Linear)]
    found = [linear.bias for linear in linears if linear.bias is not None]
    found = found or [p for key, p in module.named_parameters() if "bias" in key and p.ndim == 1]
    return found[-1:]


def _partners(module: Any) -> dict[int, tuple[Any, Any]]:
    """Parameters of one shape that a module with submodules holds itself, each with one of the other half."""
    found: dict[int, tuple[Any, Any]] = {}
    for child in module.modules():
        alike: dict[Any, list[Any]] = {}
        for parameter in child.parameters(recurse=False) if any(child.children()) else ():
            alike.setdefault(parameter.shape, []).append(parameter)
        for group in alike.values():
            half = len(group) // 2
            if len(group) == 2 * half:
                pairs = zip(group, group[half:] + group[:half], strict=True)
                found |= {id(one): (one, other) for one, other in pairs}
    return found


def exchanged(call: TorchCall) -> Any:
    """Each of two parameters is used in the place of the other."""
    if "partners" not in call.state:
        call.state["partners"] = _partners(call.forward.module)
    partners = call.state["partners"]
    words = "each is used in the place of another", "each in its own place"
    return Substitute(
        lambda module: [one for one, _ in partners.values()], lambda one: partners[id(one)][1] * 1, words
    )(call)


def norm_tensor(name: str) -> Select:
    """The `name` of every normalisation."""

    def select(module: Any) -> list[Any]:
        found = (getattr(norm, name, None) for norm in norms_of(module))
        return [tensor for tensor in found if tensor is not None]

    return select


# Queries, keys and values in one tensor. The number of heads is read from the scores of one more run.


def fused(axes: Callable[[int, int], tuple[int, int, int]], words: tuple[str, str]) -> Injector:
    """What is three times as long as all heads together, as `axes(heads, width)`, with the first two swapped."""

    def around(hits: Hits, module: Any, forward: Any, *args: Any, **kwargs: Any) -> Any:
        heads = {3 * n * h: (n, h) for n, h in heads_in(module, forward, args, kwargs)}

        def select(module: Any) -> list[Any]:
            return [p for p in module.parameters() if p.shape[0] in heads]

        def change(tensor: Any) -> Any:
            return tensor.unflatten(0, axes(*heads[tensor.shape[0]])).movedim(0, 1).flatten(0, 2)

        with Forward(module, hits, Substitute(select, change, words)).mode:
            return forward(*args, **kwargs)

    return wrapping(lambda module: [module], around)


def heads_in(module: Any, forward: Any, args: Any, kwargs: Any) -> set[tuple[int, int]]:
    """The numbers and widths of heads whose scores are seen in a forward pass."""
    import torch

    found: set[tuple[int, int]] = set()

    def soft(forward: Forward, chain: Any, scores: Any, dim: Any) -> Any:
        apart = None if chain is None else heads_apart(forward, chain.queries)
        if apart is not None:
            found.add((apart.shape[-3], apart.shape[-1]))
        return PASS

    modes = [(child, child.training) for child in module.modules()]
    module.eval()  # nothing is dropped out here
    try:
        with torch.no_grad(), Forward(module, Hits(), Points(soft=soft)).mode:
            forward(*args, **kwargs)
    finally:
        for child, training in modes:
            child.training = training
    return found


def has_fused(module: Any) -> bool:
    """Whether there is attention, and a tensor that may hold queries, keys and values."""
    long = any(
        p.ndim == 2 and p.shape[0] % 3 == 0 and p.shape[0] > 2 * p.shape[1] for p in module.parameters()
    )
    return long and is_attention(module)


def kernels(module: Any) -> list[Any]:
    """The first kernel of a convolution."""
    return [p for p in module.parameters() if p.ndim > 2 and max(p.shape[2:]) > 1][:1]


def _zeros(tensor: Any) -> Any:
    return tensor.new_zeros(tensor.shape)


def _transposed(tensor: Any) -> Any:
    return tensor.mT


def _flipped(tensor: Any) -> Any:
    return tensor.flip(tuple(range(2, tensor.ndim)))


def _detached(tensor: Any) -> Any:
    return tensor.detach()


def first_weight(module: Any) -> list[Any]:
    """The first parameter of two axes, else the first there is."""
    every = list(module.parameters())
    return ([p for p in every if p.ndim == 2] or every)[:1]


def one_norm(name: str) -> Select:
    """The `name` of the last normalisation."""
    return lambda module: norm_tensor(name)(module)[-1:]


def _mutation(
    name: str,
    summary: str,
    setting: str,
    select: Select,
    change: Callable[[Any], Any],
    words: tuple[str, str],
    *on: str,
) -> Mutation:
    substitute = Substitute(select, change, words)
    return Mutation(name, summary, setting, select, substitute.inject, family="layers", on=on)


WEIGHTS = [
    Mutation("parameters-swapped", "parameters of one shape are used in each other's place",
             "order of parameters", _partners, watching(exchanged), family="layers",
             on=("attention-relative", "attention-differential", "attention-linformer", "gated-delta-net")),
    _mutation("weight-transposed", "a square weight is used without its transpose", "weight", square,
              _transposed, ("the transpose", "the weight"), "attention-masked", "torch-multihead-padding"),
    _mutation("bias-missing", "a bias is not added", "bias", bias, _zeros, ("no bias", "a bias"),
              "feed-forward-gelu", "classification-head"),
    Mutation("qkv-by-heads", "a fused q, k, v weight is split into heads first", "fused q, k, v", has_fused,
             fused(lambda heads, width: (heads, 3, width),
                   ("split as (heads, 3, width)", "as (3, heads, width)")),
             family="attention", on=("sdpa", "torch-multihead-padding")),
    Mutation("qkv-in-three", "a fused q, k, v weight is split in three before it is split into heads",
             "fused q, k, v", has_fused,
             fused(lambda heads, width: (3, heads, width),
                   ("split as (3, heads, width)", "as (heads, 3, width)")),
             family="attention", on=("sdpa",)),
    _mutation("kernel-flipped", "a convolution's kernel is turned round", "weight", kernels, _flipped,
              ("the kernel turned round", "the kernel"), "image layer"),
    _mutation("norm-bias-missing", "a normalisation without its bias", "norm bias", one_norm("bias"), _zeros,
              ("no bias", "a bias"), "encoder-layer-post"),
    _mutation("norm-scale-plus-one", "a normalisation scales by 1 + its weight", "norm scale",
              one_norm("weight"), lambda weight: weight + 1, ("1 + weight", "weight"), "encoder-layer-post"),
    _mutation("weight-constant", "a parameter gets no gradient, as if it were a buffer",
              "gradient of a weight", first_weight, _detached, ("none", "one"), "attention-masked", "encoder"),
]  # fmt: skip


# The mutations of a single weight: (what it becomes, which weights, the words with and without the mutation).

ONE = {
    "weight-transposed": (_transposed, lambda p: p.ndim == 2 and p.shape[0] == p.shape[1],
                          "the transpose of {}", "{}"),
    "bias-missing": (_zeros, lambda p: p.ndim == 1, "no {}", "{}"),
    "kernel-flipped": (_flipped, lambda p: p.ndim > 2 and max(p.shape[2:]) > 1, "{} turned round", "{}"),
    "weight-constant": (_detached, lambda p: True, "none", "a gradient of {}"),
}  # fmt: skip


def variants(module: Any) -> list[Mutation]:
    """The mutations of a single weight, for each weight of a module that they fit."""
    import torch

    tables = {id(p) for m in module.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()}
    of_norms = {id(tensor) for tensor in norm_tensor("bias")(module)}
    found = []
    for mutation in [mutation for mutation in WEIGHTS if mutation.name in ONE]:
        change, fits, wrong, right = ONE[mutation.name]
        for key, parameter in module.named_parameters():
            bias_only = mutation.name != "bias-missing" or ("bias" in key and id(parameter) not in of_norms)
            if fits(parameter) and bias_only and not (change is _transposed and id(parameter) in tables):
                words = wrong.format(key), right.format(key)
                substitute = Substitute(partial(_named, key), change, words)
                found.append(replace(mutation, fits=lambda module: True, injector=substitute.inject))
    return found


def _named(key: str, module: Any) -> list[Any]:
    return [module.get_parameter(key)]
