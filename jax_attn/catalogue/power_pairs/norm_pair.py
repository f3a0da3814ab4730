"""GroupNorm and RMSNorm as a pair of modules."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_attn.parity.cases import Case

CHANNELS, GROUPS, GROUP_EPS, RMS_EPS = 6, 2, 1e-3, 1e-4


class FlaxNorms(nnx.Module):
    """`rms(group(x))`."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.group = nnx.GroupNorm(
            CHANNELS, num_groups=GROUPS, epsilon=GROUP_EPS, use_fast_variance=False, rngs=rngs
        )
        self.rms = nnx.RMSNorm(CHANNELS, epsilon=RMS_EPS, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """`(b, c, t)` to `(b, t, c)`."""
        return self.rms(self.group(jnp.moveaxis(x, 1, -1)))


def torch_norms() -> Any:
    """The same in torch."""
    import torch

    class TorchNorms(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.group = torch.nn.GroupNorm(GROUPS, CHANNELS, GROUP_EPS)
            self.rms = torch.nn.RMSNorm(CHANNELS, RMS_EPS)
            for parameter in self.parameters():
                parameter.data += 0.3 * torch.randn(CHANNELS)

        def forward(self, x: Any) -> Any:
            return self.rms(self.group(x).movedim(1, -1))

    torch.manual_seed(0)
    return TorchNorms()


def norm_cases() -> list[Case]:
    """Small numbers, beside which an eps counts."""
    return [Case("small", (0.1 * np.random.default_rng(0).standard_normal((3, CHANNELS, 5)),))]
