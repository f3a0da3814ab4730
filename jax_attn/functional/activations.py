"""The nonlinear functions of feed-forward layers, by the names that config.json files give them.

Those that are more than a comparison are computed in float32 for 16 bits, and rounded once.
"""

import math
from collections.abc import Callable
from functools import wraps

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jax_attn.functional.dtypes import accumulator

Activation = Callable[[jax.Array], jax.Array]


def in_float32(function: Activation) -> Activation:
    """The function, computed in float32 for 16 bits and in the dtype itself from float32 up."""

    @wraps(function)
    def wide(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
        return function(x.astype(accumulator(x.dtype))).astype(x.dtype)

    return wide


@in_float32
def gelu(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """`x · Φ(x)`, with the normal distribution's `Φ(x) = (1 + erf(x / √2)) / 2`.

    `jax.nn.gelu(x, approximate=False)` writes Φ with `erfc`, which takes more than twice as long on CPU. There XLA
    also makes a whole array of each constant, so the 1 is not written.

    Source: Hendrycks and Gimpel (arXiv 1606.08415).
    """
    half = x * 0.5
    return half + half * jax.lax.erf(x * 0.5**0.5)


@in_float32
def gelu_tanh(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """`x/2 · (1 + tanh(u))`, `u = √(2/π) (x + 0.044715 x³)`: up to 4.7e-4 away from `gelu`.

    Written with the sigmoid, `(1 + tanh(u)) / 2 = σ(2u)`, which keeps its digits where tanh is close to -1.

    Source: Hendrycks and Gimpel (arXiv 1606.08415), section 2.
    """
    return _gelu_tanh(x, (2 / math.pi) ** 0.5)


def _gelu_tanh(x: Array, slope: float) -> Array:
    return x * jax.nn.sigmoid(2 * slope * (x + 0.044715 * x**3))


@in_float32
def quick_gelu(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """`x · σ(1.702 x)`: up to 0.02 away from `gelu`. CLIP was trained with it.

    Source: Hendrycks and Gimpel (arXiv 1606.08415), section 2.
    """
    return x * jax.nn.sigmoid(1.702 * x)


@in_float32
def silu(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """`x · σ(x)`, also called swish.

    Source: Elfwing et al. (arXiv 1702.03118); Ramachandran et al. (arXiv 1710.05941).
    """
    return x * jax.nn.sigmoid(x)


def relu_squared(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """`max(x, 0)²`.

    Source: So et al. (arXiv 2109.08668).
    """
    return jnp.square(jax.nn.relu(x))


@in_float32
def mish(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """`x · tanh(log(1 + eˣ))`.

    Source: Misra (arXiv 1908.08681).
    """
    return x * jnp.tanh(jax.nn.softplus(x))


def relu6(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """`min(max(x, 0), 6)`, with torch's slope of 0 at both ends.

    Source: Howard et al. (arXiv 1704.04861).
    """
    return jnp.where(x >= 6, jnp.asarray(6, x.dtype), jax.nn.relu(x))  # NaN stays


@in_float32
def hardswish(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """`x · relu6(x + 3) / 6`.

    Source: Howard et al. (arXiv 1905.02244).
    """
    return x * relu6(x + 3) / 6


ACTIVATIONS: dict[str, Activation] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "gelu_new": gelu_tanh,  # the two names of the tanh form in config.json files
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu_python": gelu,  # and those of how they were once computed
    "gelu_python_tanh": gelu_tanh,
    "gelu_accurate": gelu_tanh,
    "gelu_fast": in_float32(lambda x: _gelu_tanh(x, 0.7978845608)),  # √(2/π), cut to ten digits
    "quick_gelu": quick_gelu,
    "silu": silu,
    "swish": silu,
    "relu": jax.nn.relu,
    "relu2": relu_squared,
    "relu6": relu6,
    "leaky_relu": in_float32(lambda x: jnp.where(x > 0, x, 0.01 * x)),  # 16 bits have no 0.01
    "mish": mish,
    "hardswish": hardswish,
    "sigmoid": in_float32(jax.nn.sigmoid),
    "tanh": in_float32(jnp.tanh),
    "linear": lambda x: x,
}
