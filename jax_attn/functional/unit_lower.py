"""The inverse of a lower triangular matrix with ones on its diagonal, by matrix products alone.

A solver goes through the rows one after another, which suits no accelerator. And on a CPU two batched solves
of jaxlib that run at the same time can wait for each other's threads for ever (0.10.2, two cores).

Neighbouring blocks of the diagonal, whose inverses are known, become one of twice the size, until one is left::

    [A  0]⁻¹   [     A⁻¹       0 ]
    [B  D]   = [-D⁻¹ B A⁻¹    D⁻¹]

It is as exact as substitution, unlike the product of powers `(I - L)(I + L²)(I + L⁴)...`, which cancels.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_jvp
def inverse_of_unit_lower(matrix: Float[Array, "*b n n"]) -> Float[Array, "*b n n"]:
    """The inverse of each matrix; what stands on and above its diagonal is not read, but taken as 1 and 0."""
    *batch, size, _ = matrix.shape
    whole = 1 << max(size - 1, 0).bit_length()  # what is filled in is a row and a column of the identity
    more = [(0, whole - size)] * 2
    matrix = jnp.pad(matrix, [(0, 0)] * len(batch) + more)
    inverse = jnp.ones((*batch, whole, 1, 1), matrix.dtype)
    while inverse.shape[-1] < whole:
        inverse = _joined(matrix, inverse)
    return inverse[..., 0, :size, :size]


@inverse_of_unit_lower.defjvp
def _jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """Two products, in place of those of every size of block."""
    inverse = inverse_of_unit_lower(*primals)
    (change,) = tangents
    return inverse, -_product(inverse, jnp.tril(change, -1), inverse)


def _joined(matrix: Float[Array, "*b n n"], inverse: Float[Array, "*b m s s"]) -> Float[Array, "*b k r r"]:
    """The inverses of the diagonal's blocks of twice the size: half as many."""
    blocks, side = inverse.shape[-3:-1]
    first, second = inverse[..., 0::2, :, :], inverse[..., 1::2, :, :]
    pairs = jnp.arange(0, blocks, 2)
    tiles = matrix.reshape(*matrix.shape[:-2], blocks, side, blocks, side)
    below = jnp.moveaxis(tiles, -2, -3)[..., pairs + 1, pairs, :, :]
    corner = -_product(second, below, first)
    above = jnp.zeros_like(corner)
    rows = [jnp.concatenate(row, axis=-1) for row in ([first, above], [corner, second])]
    return jnp.concatenate(rows, axis=-2)


def _product(*factors: Array) -> Array:
    """In full precision everywhere: an error in a small block goes into all that contain it."""
    return functools.reduce(functools.partial(jnp.matmul, precision="highest"), factors)
