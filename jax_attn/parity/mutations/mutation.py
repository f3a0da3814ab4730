"""What a mutation is."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any

from jax_attn.parity.mutations.injection import Hits
from jax_attn.parity.runners.torch_copy import copied

Injector = Callable[[Any, Hits], None]
"""Puts a mutation into a torch module, which is a copy, and reports to `Hits` where it hits."""


@dataclass(frozen=True)
class Mutation:
    """A known way for a port to go wrong, which can be injected into a torch module.

    Attributes:
        name: what the command line calls it.
        summary: what is wrong, in a line.
        setting: what a diagnosis calls the thing that differs, such as "eps".
        fits: true, or what it found, of a torch module that has what the mutation changes; it runs nothing.
        injector: puts it into a copy of a module.
        family: "attention", "rotary", "layers", "models", "losses" or "precision".
        lane: the exact lane that shows it: "dropout" for what only training does, else "float64".
        whole: whether it goes into the whole module, wherever the two begin to differ.
        on: names of the fixtures into which it is injected to be tried; see `jax_attn.catalogue.fixtures`.
    """

    name: str
    summary: str
    setting: str
    fits: Callable[[Any], Any]
    injector: Injector
    _: KW_ONLY
    family: str
    lane: str = "float64"
    whole: bool = False
    on: tuple[str, ...] = ()


@dataclass(frozen=True)
class Injected:
    """A copy of a torch module with a mutation in it, and what the mutation did whenever the copy ran."""

    mutation: Mutation
    module: Any
    hits: Hits


def inject(mutation: Mutation, module: Any, at: str = "", *, share_weights: bool = False) -> Injected:
    """A copy of a torch module with a mutation in it; the original is never changed.

    Args:
        mutation: one that fits the module.
        module: any torch module.
        at: path of the submodule that gets it, with all that is in it.
        share_weights: whether the copy holds the original's own tensors, to save memory: what trains the one
            then trains the other.
    """
    copy, hits = copied(module, share_weights=share_weights), Hits()
    mutation.injector(copy.get_submodule(at), hits)
    return Injected(mutation, copy, hits)
