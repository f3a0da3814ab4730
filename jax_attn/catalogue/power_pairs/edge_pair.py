"""Functions that somewhere have no gradient, as a pair of modules: a norm, and numbers that are clamped."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_attn.parity.cases import Case

LOW, HIGH = -1.0, 1.5


class FlaxEdges(nnx.Module):
    """Clamped numbers and norms, with torch's gradients where there is none: 1 at a bound, 0 at 0."""

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """`(t, d)` to `(t, d)` and `(t,)`."""
        clamped = jnp.where(x < LOW, LOW, jnp.where(x > HIGH, HIGH, x))
        squares = (x * x).sum(-1)
        norm = jnp.sqrt(jnp.where(squares > 0, squares, 1))
        return clamped, jnp.where(squares > 0, norm, 0)


def torch_edges() -> Any:
    """The same in torch."""
    import torch

    class TorchEdges(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x.clamp(LOW, HIGH), x.norm(dim=-1)

    return TorchEdges()


def edge_cases() -> list[Case]:
    """Numbers on both bounds, and a row of zeros."""
    x = 2 * np.random.default_rng(0).standard_normal((4, 5))
    x[0, :2], x[2] = (LOW, HIGH), 0
    return [Case("on the edge", (x,))]
