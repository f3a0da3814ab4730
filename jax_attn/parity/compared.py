"""What a report is about: the two modules, their calls, and how they are compared."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flax import nnx

from jax_attn.parity.cases import Case
from jax_attn.parity.module_pairs import ModuleNames
from jax_attn.weights.rules import Names


@dataclass(frozen=True)
class Compared:
    """The arguments of `compare_cases` that make out what is compared."""

    flax: nnx.Module
    torch: Any
    cases: tuple[Case, ...]
    weights: Any
    names: Names
    modules: ModuleNames | None
    call_flax: Callable[..., Any] | None
    call_torch: Callable[..., Any] | None
    seed: int
    whole_model: bool
