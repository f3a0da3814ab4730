"""The lanes that a pair of modules is compared in; one number cannot say what "identical" means."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Lane:
    """One way to run both sides.

    Attributes:
        name: what the command line calls it.
        dtype: the dtype of weights, inputs and computation.
        training: whether both sides run in training mode, with shared dropout masks.
    """

    name: str
    dtype: str
    training: bool = False

    @property
    def exact(self) -> bool:
        """Whether both sides are held to the bound of float64, rather than to torch's own noise."""
        return self.dtype == "float64"

    @property
    def eps(self) -> float:
        """Distance from 1 to the next number of the lane's dtype."""
        return float(jnp.finfo(self.dtype).eps)

    def cast(self, array: np.ndarray) -> np.ndarray:
        """A floating array in the lane's dtype, a complex one in that beside it; anything else as it is."""
        if not is_inexact(array):
            return array
        return array.astype(jnp.dtype(self.dtype) if is_floating(array) else self.complex_dtype)

    @property
    def complex_dtype(self) -> str:
        """The complex dtype beside the lane's, whose parts are no narrower."""
        return "complex128" if self.exact else "complex64"

    def narrows(self, dtype: Any) -> bool:
        """Whether numbers of a floating dtype are rounded by the lane's, and JAX has them without 64 bits."""
        return self.eps > float(jnp.finfo(dtype).eps) and self.dtype not in ("float32", "float64")


LANES = ("float64", "float32", "bfloat16", "dropout")
"""The names of all lanes, in the order in which they are compared."""

_ALL = {
    lane.name: lane
    for lane in (
        Lane("float64", "float64"),
        Lane("float32", "float32"),
        Lane("bfloat16", "bfloat16"),
        Lane("dropout", "float64", training=True),
    )
}


def lanes_named(names: Sequence[str]) -> list[Lane]:
    """The lanes of these names.

    Raises:
        ValueError: a name is none of `LANES`, or there is none at all.
    """
    unknown = [name for name in names if name not in _ALL]
    if unknown or not names:
        raise ValueError(f"lanes must be some of {', '.join(LANES)}, got {', '.join(unknown) or 'none'}")
    return [_ALL[name] for name in names]


def is_floating(value: Any) -> bool:
    """Whether `value` is a NumPy or JAX array of a real floating dtype, bfloat16 and float8 included."""
    return hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jnp.floating)


def is_inexact(value: Any) -> bool:
    """Whether `value` is an array of real or complex floating numbers: one that has a gradient."""
    return hasattr(value, "dtype") and jnp.issubdtype(value.dtype, jnp.inexact)
