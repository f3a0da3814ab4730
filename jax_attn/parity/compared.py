"""What a report is about: the two modules, their calls, and how they are compared."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from flax import nnx

from jax_attn.parity.cases import Case
from jax_attn.parity.tracing.module_pairs import ModuleNames
from jax_attn.weights.rules import Names


@dataclass(frozen=True)
class Compared:
    """The arguments of `compare_cases` that make out what is compared."""

    flax: nnx.Module
    torch: Any
    cases: tuple[Case, ...]
    weights: Any = "torch"
    names: Names = ()
    modules: ModuleNames | None = None
    call_flax: Callable[..., Any] | None = None
    call_torch: Callable[..., Any] | None = None
    seed: int = 0
    whole_model: bool = False
