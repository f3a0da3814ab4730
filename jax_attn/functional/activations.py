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

    `jax.nn.gelu(x, approximate=False)` writes Φ with `erfc`, which takes more than twice as long on CPU.

    Source: Hendrycks and Gimpel (arXiv 1606.08415).
    """
    return x * 0.5 * (1.0 + jax.lax.erf(x * 0.5**0.5))


@in_float32
def gelu_tanh(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """`x/2 · (1 + tanh(u))`, `u = √(2/π) (x + 0.044715 x³)`: up to 4.7e-4 away from `gelu`.

    Written with the sigmoid, `(1 + tanh(u)) / 2 = σ(2u)`, which keeps its digits where tanh is close to -1.

    Source: Hendrycks and Gimpel (arXiv 1606.08415), section 2.
    """
    u = (2 / math.pi) ** 0.5 * (x + 0.044715 * x**3)
    return x * jax.nn.sigmoid(2 * u)


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


ACTIVATIONS: dict[str, Activation] = {
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "gelu_new": gelu_tanh,  # the two names of the tanh form in config.json files
    "gelu_pytorch_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "silu": silu,
    "swish": silu,
    "relu": jax.nn.relu,
    "relu2": relu_squared,
    "sigmoid": in_float32(jax.nn.sigmoid),
    "tanh": in_float32(jnp.tanh),
    "linear": lambda x: x,
}
