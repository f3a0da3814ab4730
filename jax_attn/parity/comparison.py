"""Two modules and how they are compared: built once from what a public function is given, and passed on whole."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
from flax import nnx

from jax_attn.parity import tolerances
from jax_attn.parity.cases import Case
from jax_attn.parity.runners.constants import FlaxConstants
from jax_attn.parity.runners.torch_constants import TorchConstants
from jax_attn.parity.runners.torch_keys import parameters_of
from jax_attn.parity.runners.weight_transfer import Carried, Weights, carry
from jax_attn.parity.tracing.module_pairs import ModuleNames, certain_pairs
from jax_attn.weights.rules import Names

Caller = Callable[..., Any]

# Parameters up to which a module takes longer to compile than to run. Code that was compiled quickly adds up
# long sums one by one, so a larger model would be noisier by it than it is.
SMALL = 1_000_000


@dataclass(frozen=True)
class Comparison:
    """The options that every comparison has; `compare_cases` says what each means.

    `original` is the Flax module that `flax` is a copy of, once weights were carried over: there the attributes
    are still in the order of their definition.
    """

    flax: nnx.Module
    torch: Any
    cases: tuple[Case, ...] = ()
    weights: Weights = "torch"
    names: Names = ()
    modules: ModuleNames | None = None
    call_flax: Caller | None = None
    call_torch: Caller | None = None
    seed: int = 0
    whole_model: bool = False
    gradients: bool = True
    original: nnx.Module | None = None

    @property
    def bound(self) -> float:
        """Up to which two tensors agree in float64."""
        return tolerances.WHOLE_MODEL if self.whole_model else tolerances.MODULE

    @cached_property
    def parameters(self) -> int:
        """How many numbers the Flax module learns."""
        return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(self.flax, nnx.Param)))

    @property
    def quick(self) -> bool:
        """Whether to compile quickly rather than for speed."""
        return self.parameters <= SMALL

    @cached_property
    def constants(self) -> FlaxConstants:
        """What Flax computes from nothing, for what torch keeps of it in float32."""
        return FlaxConstants(self.flax, self.names, self.call_flax)

    @cached_property
    def frozen(self) -> frozenset[str]:
        """The keys of torch's parameters that ask for no gradient."""
        return frozenset(key for key, each in parameters_of(self.torch).items() if not each.requires_grad)

    @property
    def as_defined(self) -> nnx.Module:
        """The Flax module with its attributes in the order of their definition."""
        return self.flax if self.original is None else self.original

    @cached_property
    def torch_constants(self) -> TorchConstants | None:
        """What torch computes from nothing, for what Flax keeps of it in float32; None of a recorded module."""
        return TorchConstants(self.torch, self.call_torch) if hasattr(self.torch, "_parameters") else None

    @cached_property
    def certain_pairs(self) -> dict[str, str]:
        """Torch's path of each Flax path that has a counterpart for certain."""
        return certain_pairs(self.as_defined, self.torch, self.names, self.modules)

    def carry(self) -> tuple["Comparison", Carried]:
        """Return the comparison of copies that share weights, and what of the weights is not compared.

        Raises:
            StateDictError: the weights of one side do not fit the other.
        """
        carried = carry(self.as_defined, self.torch, self.weights, self.names)
        copies = dict(flax=carried.flax, torch=carried.torch, names=carried.names)
        return replace(self, **copies, original=self.as_defined), carried
