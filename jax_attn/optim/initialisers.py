"""Initialisers that draw from the distributions of torch's layers, for `kernel_init=` and its like.

The leaves of `jax_attn.nn.primitives` have them already; these are for a model that is built from NNX's own
modules, which draw others (`nnx.Linear`: a kernel √3 times as wide, and a bias of 0). Other generators give
other numbers: the distributions are equal, the draws are not. Kernels are `(in, ...out)`, the transpose of
torch's weights.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jax_attn.functional.checks import require_positive
from jax_attn.nn.primitives import Initializer, uniform_within


def linear_kernel() -> Initializer:
    """U(±1/√in) for a kernel `(in, ...out)`: the weight of `torch.nn.Linear`.

    torch's own words for it are Kaiming's uniform with a = √5.
    """

    def init(
        key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32, **kwargs: Any
    ) -> jax.Array:
        return uniform_within(shape[0] ** -0.5)(key, shape, dtype, **kwargs)

    return init


def linear_bias(in_features: int) -> Initializer:
    """U(±1/√in_features): the bias of `torch.nn.Linear`. Its shape does not tell the width of the input."""
    require_positive("in_features", in_features)
    return uniform_within(in_features**-0.5)


def embedding(padding_idx: int | None = None) -> Initializer:
    """N(0, 1), and 0 in the row `padding_idx`: the weight of `torch.nn.Embedding`.

    torch also keeps that row from being trained; here it is one to mask in the optimizer.
    """

    def init(
        key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32, **kwargs: Any
    ) -> jax.Array:
        table = jax.random.normal(key, shape, dtype, **kwargs)
        if padding_idx is None:
            return table
        if not -shape[0] <= padding_idx < shape[0]:
            raise ValueError(f"padding_idx must be one of the {shape[0]} rows, got padding_idx={padding_idx}")
        return table.at[padding_idx].set(0)

    return init


def attention_in_proj(packed: bool = True) -> Initializer:
    """Xavier's uniform as `torch.nn.MultiheadAttention` draws its projections of queries, keys and values.

    torch draws the three as one matrix: `U(±√(6 / (E + 3E)))` with E the width of the input. `packed` takes
    a kernel of all three, `(E, 3E)`; otherwise a kernel of one, `(E, ...)`, is drawn as that third of it: a
    plain Xavier's uniform would be √2 times as wide. Where keys or values have a width of their own (`kdim`,
    `vdim`), torch does draw each matrix by itself: that is `jax.nn.initializers.xavier_uniform()`.
    """

    def init(
        key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32, **kwargs: Any
    ) -> jax.Array:
        out = math.prod(shape[1:]) * (1 if packed else 3)
        return uniform_within(math.sqrt(6.0 / (shape[0] + out)))(key, shape, dtype, **kwargs)

    return init


def attention_out_proj() -> Initializer:
    """U(±1/√E) for the output's kernel `(...in, E)`: the `out_proj` of `torch.nn.MultiheadAttention`.

    All its axes but the last are the input. The biases of all four projections begin at 0
    (`jax.nn.initializers.zeros`).
    """

    def init(
        key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32, **kwargs: Any
    ) -> jax.Array:
        return uniform_within(math.prod(shape[:-1]) ** -0.5)(key, shape, dtype, **kwargs)

    return init


def attention_bias_kv() -> Initializer:
    """N(0, 1/E) for `bias_k` and `bias_v`, of shape `(..., E)`, of `torch.nn.MultiheadAttention`.

    Xavier's normal of a `(1, 1, E)` array: torch reads it as a convolution of width E from one channel to
    one.
    """

    def init(
        key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32, **kwargs: Any
    ) -> jax.Array:
        return jax.random.normal(key, shape, dtype, **kwargs) * jnp.asarray(shape[-1] ** -0.5, dtype)

    return init
