"""One row of the catalogue: a Flax class, its torch twin, and how the two are compared."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from flax import nnx

from jax_attn.models.part import built, locate
from jax_attn.parity.cases import Case
from jax_attn.weights.sketch import without_weights

ATTENTION_PAPER = '"Attention Is All You Need" (arXiv 1706.03762)'
NLP_TRANSFORMERS = '"Natural Language Processing with Transformers", ch. 3'
BERT = "Devlin et al. (arXiv 1810.04805)"
MODERNBERT = "ModernBERT (arXiv 2412.13663)"
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
        return self.flax_from(nnx.Rngs(seed))

    def flax_from(self, rngs: nnx.Rngs) -> nnx.Module:
        """The Flax module, its weights drawn from `rngs`."""
        return locate("jax_attn", self.where)(**built(self.arguments, "jax_attn", rngs=rngs), rngs=rngs)

    def flax_to_load(self) -> nnx.Module:
        """The Flax module with zeros for weights, since torch's replace them: to draw takes a program a shape."""
        module = without_weights(self.flax_from)
        for _, leaf in nnx.to_flat_state(nnx.state(module, nnx.Param)):
            leaf.set_value(jax.device_put(np.zeros(leaf.shape, leaf.dtype)))
        return module

    def torch(self, seed: int = 0) -> Any:
        """The torch module, with random weights. Imports torch."""
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return locate("torch_ref", self.where)(**built(self.arguments, "torch_ref"))
