"""What a fault is."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jax_attn.parity.faults.planting import Acts, copied

Planter = Callable[[Any, Acts], None]
"""Puts a fault into a torch module, which is a copy, and tells `Acts` where it acts."""


@dataclass(frozen=True)
class Fault:
    """A known way for a port to go wrong, which can be planted into a torch module.

    Attributes:
        name: what the command line calls it.
        summary: what is wrong, in a line.
        family: "attention", "rotary", "layers", "models", "losses" or "precision".
        setting: what a diagnosis calls the thing that differs, such as "eps".
        fits: whether a torch module has what the fault changes, told without running it.
        planter: puts it into a copy of a module.
        pitfalls: numbers in the project's list of known causes; empty where it is not listed.
        lane: the exact lane that shows it: "dropout" for what only training does, else "float64".
    """

    name: str
    summary: str
    family: str
    setting: str
    fits: Callable[[Any], bool]
    planter: Planter
    pitfalls: tuple[int, ...] = ()
    lane: str = "float64"


@dataclass(frozen=True)
class Planted:
    """A copy of a torch module with a fault in it, and what the fault did whenever the copy ran."""

    fault: Fault
    module: Any
    acts: Acts


def plant(fault: Fault, module: Any, at: str = "", *, share_weights: bool = False) -> Planted:
    """A copy of a torch module with a fault in it; the original is never changed.

    Args:
        fault: one that fits the module.
        module: any torch module.
        at: path of the submodule that gets it, with all that is in it.
        share_weights: whether the copy holds the original's own tensors, to save memory: what trains the one
            then trains the other.
    """
    copy, acts = copied(module, share_weights), Acts()
    fault.planter(copy.get_submodule(at), acts)
    return Planted(fault, copy, acts)
