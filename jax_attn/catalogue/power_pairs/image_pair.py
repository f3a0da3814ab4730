"""A layer of an image model as a pair of modules: a convolution with a stride, BatchNorm, a leaky ReLU."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jax_attn.parity.cases import Case

CHANNELS, SLOPE, EPS, NEW = 3, 0.1, 1e-3, 0.3


class FlaxBatchNorm(nnx.Module):
    """BatchNorm that keeps the unbiased variance, as torch does and `nnx.BatchNorm` does not."""

    def __init__(self) -> None:
        self.scale, self.bias = nnx.Param(jnp.ones(CHANNELS)), nnx.Param(jnp.zeros(CHANNELS))
        self.running_mean = nnx.BatchStat(jnp.zeros(CHANNELS))
        self.running_var = nnx.BatchStat(jnp.ones(CHANNELS))
        self.use_running_average = False

    def __call__(self, x: jax.Array) -> jax.Array:
        """`(..., c)` to the same; in training, what it has seen is kept."""
        wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
        mean, variance = self.running_mean[...], self.running_var[...]
        if not self.use_running_average:
            axes = tuple(range(x.ndim - 1))
            n = x.size // x.shape[-1]
            mean, variance = wide.mean(axes), wide.var(axes)
            self._keep(self.running_mean, mean)
            self._keep(self.running_var, variance * n / (n - 1))
        y = (wide - mean) * jax.lax.rsqrt(variance + EPS) * self.scale[...] + self.bias[...]
        return y.astype(x.dtype)

    @staticmethod
    def _keep(running: nnx.BatchStat[jax.Array], seen: jax.Array) -> None:
        running[...] = (1 - NEW) * running[...] + NEW * jax.lax.stop_gradient(seen)


class FlaxImageLayer(nnx.Module):
    """`leaky(norm(conv(x)))`."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(2, CHANNELS, (3, 3), strides=2, padding=1, use_bias=False, rngs=rngs)
        self.norm = FlaxBatchNorm()

    def __call__(self, x: jax.Array) -> jax.Array:
        """`(b, c, h, w)` to `(b, h/2, w/2, 3)`."""
        return nnx.leaky_relu(self.norm(self.conv(jnp.moveaxis(x, 1, -1))), SLOPE)


def torch_image_layer() -> Any:
    """The same in torch."""
    import torch

    class TorchImageLayer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(2, CHANNELS, 3, stride=2, padding=1, bias=False)
            self.norm = torch.nn.BatchNorm2d(CHANNELS, EPS, NEW)
            for tensor in self.norm.state_dict().values():
                if tensor.is_floating_point():
                    tensor += 0.3 * torch.rand(CHANNELS)

        def forward(self, x: Any) -> Any:
            return torch.nn.functional.leaky_relu(self.norm(self.conv(x)), SLOPE).movedim(1, -1)

    torch.manual_seed(0)
    return TorchImageLayer()


def image_cases() -> list[Case]:
    """Two small images. Their sides are even: of odd ones, `SAME` takes the same windows."""
    return [Case("images", (np.random.default_rng(0).standard_normal((2, 2, 6, 8)),))]
