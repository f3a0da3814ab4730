"""How one tensor is laid out in Flax and in torch: linear both ways, so gradients pass as weights do."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import nnx


@dataclass(frozen=True)
class Layout:
    """A pair of maps between the two frameworks, each the other's inverse."""

    to_torch: Callable[[np.ndarray], np.ndarray]
    to_flax: Callable[[np.ndarray, tuple[int, ...]], np.ndarray]


SAME = Layout(lambda array: array, lambda array, shape: array)
TRANSPOSED = Layout(lambda array: array.swapaxes(-1, -2), lambda array, shape: array.swapaxes(-1, -2))
# (spatial..., in, out) against (out, in, spatial...)
CONVOLUTION = Layout(
    lambda array: np.moveaxis(array, (-1, -2), (0, 1)),
    lambda array, shape: np.moveaxis(array, (0, 1), (-1, -2)),
)
# (spatial..., in, out), mirrored, against (in, out, spatial...)
MIRRORED = Layout(
    lambda array: np.moveaxis(np.flip(array, tuple(range(array.ndim - 2))), (-2, -1), (0, 1)),
    lambda array, shape: np.flip(np.moveaxis(array, (0, 1), (-2, -1)), tuple(range(array.ndim - 2))),
)
FLATTENED = Layout(lambda array: array.reshape(-1), lambda array, shape: array.reshape(shape))


def general_linear(inputs: int) -> Layout:
    """`nnx.LinearGeneral`'s kernel `(*in, *out)` against `(prod(out), prod(in))`, with `inputs` axes in."""

    def to_torch(array: np.ndarray) -> np.ndarray:
        return array.reshape(math.prod(array.shape[:inputs]), -1).T

    return Layout(to_torch, lambda array, shape: array.T.reshape(shape))


def layout_of(owner: Any, name: str) -> Layout:
    """The layout of the attribute `name` of the module `owner`."""
    if isinstance(owner, nnx.LinearGeneral):
        return general_linear(len(owner.in_features)) if name == "kernel" else FLATTENED
    if isinstance(owner, nnx.Conv) and name == "kernel":
        return CONVOLUTION
    if isinstance(owner, nnx.ConvTranspose) and name == "kernel":
        return CONVOLUTION if owner.transpose_kernel else MIRRORED  # which has out before in
    return TRANSPOSED if name == "kernel" else SAME
