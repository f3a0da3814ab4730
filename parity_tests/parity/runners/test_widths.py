"""A cast to float32 that a port lacks, where the numbers do not show it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from jax_attn.parity.compare import compare

WIDTH = 768


class TorchNorm(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(WIDTH))

    def forward(self, x):
        h = x.float()
        return self.weight * (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


class FlaxNorm(nnx.Module):
    def __init__(self, cast: bool):
        self.weight = nnx.Param(jnp.ones(WIDTH))
        self.cast = cast

    def __call__(self, x):
        h = x.astype(jnp.float32) if self.cast else x
        return self.weight[...] * (h * jax.lax.rsqrt((h * h).mean(-1, keepdims=True) + 1e-6)).astype(x.dtype)


class TorchSoftmax(torch.nn.Module):
    def forward(self, x):
        return torch.nn.functional.softmax(x, dim=-1, dtype=torch.float32).to(x.dtype)


class FlaxSoftmax(nnx.Module):
    def __init__(self, cast: bool):
        self.cast = cast

    def __call__(self, x):
        return jax.nn.softmax(x.astype(jnp.float32) if self.cast else x).astype(x.dtype)


@pytest.mark.parametrize("cast", [True, False])
@pytest.mark.parametrize(
    ("flax", "theirs", "name"), [(FlaxNorm, TorchNorm, "rsqrt"), (FlaxSoftmax, TorchSoftmax, "exp")]
)
def test_a_missing_cast_is_listed(flax, theirs, name: str, cast: bool):
    x = np.random.default_rng(0).standard_normal((2, 5, WIDTH))
    report = compare(flax(cast), theirs(), x, lanes=["bfloat16"], trace=False)
    listed = [entry.name for entry in report.left_out if "a cast is missing" in entry.reason]
    assert listed == ([] if cast else [f"(warning) {name}"])
