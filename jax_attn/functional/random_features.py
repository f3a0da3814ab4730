"""Random features whose products are, on average, the exponentials that softmax attention is made of."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jax_attn.functional.dtypes import accumulator


def orthogonal_features(
    key: Array, num_features: int, head_dim: int, dtype: DTypeLike = jnp.float32
) -> Float[Array, "M H"]:
    """Draw `num_features` vectors from N(0, I), orthogonal to one another within each block of `head_dim`.

    Source: Choromanski et al. (arXiv 2009.14794), section 2.4.
    """
    wide = accumulator(dtype)
    blocks = -(-num_features // head_dim)
    of_directions, of_lengths = jax.random.split(key)
    q, r = jnp.linalg.qr(jax.random.normal(of_directions, (blocks, head_dim, head_dim), wide))
    # The signs make every rotation of the directions equally likely.
    directions = (q * jnp.sign(jnp.diagonal(r, axis1=-2, axis2=-1))[:, None]).mT.reshape(-1, head_dim)
    lengths = jnp.linalg.norm(jax.random.normal(of_lengths, (num_features, head_dim), wide), axis=-1)
    return (directions[:num_features] * lengths[:, None]).astype(dtype)


def softmax_features(
    x: Float[Array, "B T N H"], features: Float[Array, "M H"], *, is_query: bool, eps: float = 0.0
) -> Float[Array, "B T N M"]:
    """`φ(x) = exp(ω · x' - |x'|² / 2) / sqrt(M)` for each feature `ω`, `x' = x / H^(1/4)`, up to a factor.

    The mean of `φ(q) · φ(k)` over features from N(0, I) is `exp(q · k / sqrt(H))`. The factor keeps the
    exponentials in range, and cancels in attention: `exp(-max ω · x')`, over the features of a query, or over
    those of all keys of a head. Computed in float32 for 16 bits, and left there.

    Args:
        x: queries or keys.
        features: the vectors `ω`.
        is_query: which of them they are.
        eps: added to each exponential, after the factor; then it cancels no longer.

    Source: Choromanski et al. (arXiv 2009.14794), lemma 1; `eps` and the factor as in the authors' code.
    """
    products, lengths = _exponents(x, features)
    largest = jnp.max(products, axis=-1 if is_query else (1, 3), keepdims=True, initial=-jnp.inf)
    largest = jax.lax.stop_gradient(jnp.where(jnp.isfinite(largest), largest, 0))
    return (jnp.exp(products - lengths - largest) + eps) * features.shape[0] ** -0.5


def further_features(
    keys: Float[Array, "B T N H"], features: Float[Array, "M H"], largest: Float[Array, "B N"]
) -> tuple[Float[Array, "B T N M"], Float[Array, "B N"]]:
    """`softmax_features` of keys that come after others, whose factor is `exp(-largest)`.

    Returns:
        the features, and the exponent of the factor that they share: what was made with the old one has to be
        multiplied by `exp(largest - new)`.
    """
    products, lengths = _exponents(keys, features)
    new = jnp.maximum(largest, jnp.max(products, axis=(1, 3), initial=-jnp.inf))
    new = jax.lax.stop_gradient(jnp.where(jnp.isfinite(new), new, 0))
    return jnp.exp(products - lengths - new[:, None, :, None]) * features.shape[0] ** -0.5, new


def _exponents(x: Float[Array, "B T N H"], features: Float[Array, "M H"]) -> tuple[Array, Array]:
    """`ω · x'` of each feature, and `|x'|² / 2`."""
    wide = accumulator(x.dtype)
    x = x.astype(wide) * x.shape[-1] ** -0.25
    products = jnp.einsum("btnh,mh->btnm", x, features.astype(wide))
    return products, jnp.sum(x * x, axis=-1, keepdims=True) / 2
