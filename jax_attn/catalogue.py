"""The table of twins: one row a variant. The command line, the tests and the documentation read it.

A row says where the class lives (the same path under `jax_attn` and `torch_ref`), how both sides are
built, and the inputs that stress it. Sizes are primes and all different, so that a swapped axis shows.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from typing import Any

from flax import nnx

from jax_attn.parity.cases import Case, token_cases

BUILD_LLM = '"Build a Large Language Model From Scratch", ch. 3'


@dataclass(frozen=True)
class Twin:
    """One variant: a Flax class, its torch twin, and how the two are built and called to be compared.

    Attributes:
        name: what the command line calls it.
        where: `module:Class`, relative to `jax_attn` and to `torch_ref`.
        summary: what it computes, in a line.
        source: the paper, book or API it comes from.
        arguments: constructor arguments, the same on both sides (`rngs` is added for Flax).
        cases: builds the calls that the two sides are compared on.
        whole_model: judged by the float64 bound of a whole model in place of a single module's.
    """

    name: str
    where: str
    summary: str
    source: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    cases: Callable[[], Sequence[Case]] = list
    whole_model: bool = False

    def flax(self, seed: int = 0) -> nnx.Module:
        """The Flax module, with random weights."""
        return self._class("jax_attn")(**self.arguments, rngs=nnx.Rngs(seed))

    def torch(self, seed: int = 0) -> Any:
        """The torch module, with random weights. Imports torch."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._class("torch_ref")(**self.arguments)

    def _class(self, package: str) -> Any:
        module, name = self.where.split(":")
        return getattr(import_module(f"{package}.{module}"), name)


LADDER = [
    Twin(
        "causal",
        "from_scratch.causal:CausalAttention",
        "a token attends to itself and the tokens before it",
        BUILD_LLM,
        dict(d_in=7, d_out=5, context_length=11, dropout=0.3),
        partial(token_cases, 7, context=11),
    ),
]

COMPONENTS: list[Twin] = []

CATALOGUE: dict[str, Twin] = {twin.name: twin for twin in [*LADDER, *COMPONENTS]}
