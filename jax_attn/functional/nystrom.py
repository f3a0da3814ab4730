"""The two parts of Nyström's approximation of attention: landmarks, and an inverse made of products."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def segment_means(
    x: Float[Array, "B T N H"], mask: Bool[Array, "B T"] | None, size: int
) -> tuple[Float[Array, "B L N H"], Bool[Array, "B L"]]:
    """The mean of each `size` neighbours, of those that `mask` keeps, and which segments have any.

    The last segment may have fewer; one that has none gives 0.
    """
    batch, tokens, heads, head_dim = x.shape
    if mask is None:
        mask = jnp.ones((batch, tokens), bool)
    missing, segments = -tokens % size, -(-tokens // size)
    x = jnp.pad(x, [(0, 0), (0, missing), (0, 0), (0, 0)]).reshape(batch, segments, size, heads, head_dim)
    kept = jnp.pad(mask, [(0, 0), (0, missing)]).reshape(batch, segments, size)
    count = jnp.sum(kept, axis=-1)
    total = jnp.sum(jnp.where(kept[..., None, None], x, 0), axis=2)
    return total / jnp.maximum(count, 1)[..., None, None].astype(x.dtype), count > 0


def iterative_inverse(matrix: Float[Array, "*b L L"], iterations: int = 6) -> Float[Array, "*b L L"]:
    """The Moore-Penrose inverse of a matrix whose rows sum to 1, by an iteration of third order.

    `Z ← Z (13 I - A Z (15 I - A Z (7 I - A Z))) / 4` from `Z = Aᵀ / max_j Σ_i A[i, j]`, each matrix by itself.

    Source: Xiong et al. (arXiv 2102.03902), equation 11, after Razavi et al. (2014).
    """
    identity = jnp.eye(matrix.shape[-1], dtype=matrix.dtype)
    largest = jnp.max(jnp.sum(matrix, axis=-2), axis=-1)[..., None, None]
    start = matrix.mT / jnp.where(largest == 0, 1, largest)

    def step(inverse: Array, _: None) -> tuple[Array, None]:
        product = matrix @ inverse
        inner = 15 * identity - product @ (7 * identity - product)
        return inverse @ (13 * identity - product @ inner) / 4, None

    return jax.lax.scan(step, start, length=iterations)[0]
