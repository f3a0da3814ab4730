"""Weights that are one on one side and two on the other: torch's are tied, or parted, as Flax's are."""

import copy
from collections.abc import Sequence
from typing import Any

from jax_attn.parity.mutations.injection import Forward, Hits, wrapping
from jax_attn.parity.mutations.mutation import Mutation
from jax_attn.parity.mutations.weights import Substitute

SETTING = "gradient of tied weights"
OWN = "a weight of its own"


def tied_mutation(groups: Sequence[Sequence[str]]) -> Mutation:
    """The mutation that makes one weight of the parameters in each group, which hold the same numbers."""

    told = (f"{other} the same as {first}" for first, *others in groups for other in others)
    words = ", ".join(told), "weights of their own"

    def around(hits: Hits, module: Any, forward: Any, *args: Any, **kwargs: Any) -> Any:
        found = [[module.get_parameter(key) for key in group] for group in groups]
        group_of = {id(parameter): group for group in found for parameter in group}

        def with_all_gradients(tensor: Any) -> Any:
            """The tensor, whose gradient goes to each of its group."""
            return tensor.detach() + sum(each - each.detach() for each in group_of[id(tensor)])

        def select(module: Any) -> list[Any]:
            return [parameter for group in found for parameter in group]

        with Forward(module, hits, Substitute(select, with_all_gradients, words)).mode:
            return forward(*args, **kwargs)

    return Mutation(
        "weights-tied", "weights of the same numbers are one and the same", SETTING, lambda module: True,
        wrapping(lambda module: [module], around), family="models", whole=True,
    )  # fmt: skip


def parted_mutation(groups: Sequence[Sequence[str]]) -> Mutation:
    """The mutation that gives each parameter of a group, which are one, a tensor of its own."""

    def injector(module: Any, hits: Hits) -> None:
        import torch

        for first, *others in groups:
            for key in others:
                *path, leaf = key.split(".")
                owner = _own(module, path)
                owner._parameters[leaf] = torch.nn.Parameter(owner._parameters[leaf].detach().clone())
                hits.add(f"{key} {OWN}", f"{key} the same as {first}")

    return Mutation(
        "weights-parted", "a weight of two names is two", SETTING, lambda module: True, injector,
        family="models", whole=True,
    )  # fmt: skip


def _own(module: Any, path: Sequence[str]) -> Any:
    """The submodule under a path, made one of its own on the way: it may be shared as a whole."""
    for name in path:
        child = copy.copy(module._modules[name])
        child._parameters, child._modules = dict(child._parameters), dict(child._modules)
        module._modules[name] = module = child
    return module
