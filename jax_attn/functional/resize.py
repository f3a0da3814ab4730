"""Images and tables of positions of another size."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def resize_bicubic(grid: Float[Array, "h w d"], size: tuple[int, int], antialias: bool = False) -> Array:
    """Resize `(h, w, d)` to `(*size, d)` as torch's `interpolate(mode="bicubic", align_corners=False)`.

    Each axis by itself is a product with weights that depend on the sizes only. (`jax.image.resize` has other
    weights: those that torch has with `antialias`.)
    """
    rows, columns = (
        jnp.asarray(bicubic_weights(old, new, antialias), grid.dtype)
        for old, new in zip(grid.shape, size, strict=False)
    )
    return jnp.einsum("ih,jw,hwd->ijd", rows, columns, grid)


def bicubic_weights(old: int, new: int, antialias: bool = False) -> np.ndarray:
    """The weights `(new, old)` of old values in new ones.

    Without `antialias` a new value is made of the four old ones around it, the edges going on beyond them. With
    it, of as many as it spans where there are fewer new ones, and of none beyond the edges.

    Source: Keys, "Cubic convolution interpolation for digital image processing" (1981), with -3/4 and -1/2 for the
        one number that it leaves open.
    """
    ratio = old / new
    centers = (np.arange(new) + 0.5) * ratio - 0.5
    if antialias:
        weights = _cubic((np.arange(old) - centers[:, None]) / max(ratio, 1.0), -0.5)
        return weights / weights.sum(axis=1, keepdims=True)
    weights = np.zeros((new, old))
    for tap in range(-1, 3):
        at = np.floor(centers).astype(int) + tap
        np.add.at(weights, (np.arange(new), np.clip(at, 0, old - 1)), _cubic(at - centers, -0.75))
    return weights


def _cubic(distance: np.ndarray, slope: float) -> np.ndarray:
    """Keys' kernel, which is 1 at 0, and 0 from 2 on and at other integers; its slope at 1 is given."""
    x = np.abs(distance)
    near = ((slope + 2) * x - (slope + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * slope - 4 * slope
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
