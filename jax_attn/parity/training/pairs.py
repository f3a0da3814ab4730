"""Which tensors of a step of both trainings are compared, and which are not."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from jax_attn.parity.training.flax_runner import FlaxStep
from jax_attn.parity.training.torch_runner import TorchStep

VARIANCE = "nnx.BatchNorm keeps the biased variance, torch the unbiased one"

Paired = tuple[str, np.ndarray, np.ndarray, str]
"""(torch's key, Flax's tensor, torch's, what is known of a difference)."""


@dataclass(frozen=True)
class StepPairs:
    """The tensors of one step, paired.

    Args:
        flax: Flax's step.
        torch: torch's.
        untrained: why torch does not train a key; "" if it does.
        left_out: takes what is not compared, with the reason.
    """

    flax: FlaxStep
    torch: TorchStep
    untrained: Callable[[str], str]
    left_out: dict[str, str]

    def gradients(self) -> Iterator[Paired]:
        """Of what Flax trains; torch's is 0 where nothing in its loss depends on the parameter."""
        flax, torch = self.flax.gradients, self.torch.gradients
        for key, ours in flax.items():
            if key in torch or not self.untrained(key):
                yield key, ours, torch.get(key, np.zeros_like(ours)), ""
            else:
                self.left_out.setdefault(f"gradient of {key}", self.untrained(key))
        self._lacking("gradient", torch, flax, "not trained in flax")

    def updates(self) -> Iterator[Paired]:
        """Of what either side trains; the other's is then 0."""
        flax, torch = self.flax.updates, self.torch.updates
        for key, theirs in torch.items():
            reason = self.untrained(key)
            if key in flax or not reason:
                yield key, flax.get(key, np.zeros_like(theirs)), theirs, self._trained_by_one(key)
            elif theirs.any() and key not in self.flax.rest:
                self.left_out.setdefault(f"update of {key}", f"{reason}, and not trained in flax")
        self._lacking("update", flax, torch, "no such parameter in torch")

    def buffers(self) -> Iterator[Paired]:
        """Running statistics as they are after the step, where either side changes them."""
        for key, ours in self.flax.rest.items():
            if key in self.torch.updates and self.untrained(key):
                before = self.torch.before[key]
                theirs = before + self.torch.updates[key]
                if (ours != before).any() or (theirs != before).any():
                    yield key, ours, theirs, VARIANCE if key.endswith("running_var") else ""

    def _trained_by_one(self, key: str) -> str:
        """Why only one side moves a parameter; empty where both do."""
        if key not in self.flax.updates:
            return "not trained in flax"
        no_gradient = (
            "" if key in self.torch.gradients else "torch has no gradient for it, and passes it over"
        )
        return self.untrained(key) or no_gradient

    def _lacking(
        self, what: str, held: Mapping[str, np.ndarray], lacking: Mapping[str, np.ndarray], reason: str
    ) -> None:
        for key in held:
            if key not in lacking:
                self.left_out.setdefault(f"{what} of {key}", reason)
