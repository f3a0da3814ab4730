"""Mixing of tokens by the Fourier transform, in attention's place and with nothing to learn."""

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.functional.checks import checked, require_last_dim, require_positive
from jax_attn.functional.dtypes import accumulator


class FourierMixing(nnx.Module):
    """`Re(F_t x F_d)`: the real part of the Fourier transform over tokens and features.

    It has neither parameters nor a mask: padding is mixed in like any token. Computed in float32 for 16 bits.

    Args:
        embed_dim: width of input and output.
        rngs: not used; taken so that every kind of mixing is built alike.
        dtype: dtype of the output; None is the input's.
        param_dtype: not used, as `rngs`.

    Raises:
        ValueError: `embed_dim` is below 1, or the input is not `(t, embed_dim)` or `(b, t, embed_dim)`.

    Source: Lee-Thorp et al. (arXiv 2105.03824).
    """

    @checked
    def __init__(
        self,
        embed_dim: int,
        *,
        rngs: nnx.Rngs | None = None,
        dtype: DTypeLike | None = None,
        param_dtype: DTypeLike = jnp.float32,
    ):
        require_positive("embed_dim", embed_dim)
        self.embed_dim = embed_dim
        self.dtype = dtype

    def __call__(self, x: Float[Array, "*b t d"]) -> Float[Array, "*b t d"]:
        """`(t, d)` or `(b, t, d)` to the same shape."""
        require_last_dim("x", x.shape, self.embed_dim)
        mixed = jnp.fft.fftn(x.astype(accumulator(x.dtype)), axes=(-2, -1)).real
        return mixed.astype(x.dtype if self.dtype is None else self.dtype)
