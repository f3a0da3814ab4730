"""Weights as bytes: each row rounded to a part of its largest, as finely as there is room, and compressed."""

import base64
import zlib
from typing import NamedTuple

import numpy as np

LEVELS = (255, 127, 63, 31, 15, 7, 3, 1)  # steps from 0 to the largest of a row; with signs half as many
ENTROPY_MARGIN = 0.8  # zlib finds repetitions that the entropy of single bytes does not know of


class Packed(NamedTuple):
    """Rows of numbers in little room.

    Attributes:
        levels: a number is rounded to the nearest `largest of its row / levels`.
        signed: whether there are numbers below 0.
        text: base64 of zlib of the rows' largest (float32, little-endian), then a byte for each number.
    """

    levels: int
    signed: bool
    text: str


def quantise(values: np.ndarray, levels: int) -> tuple[np.ndarray, np.ndarray]:
    """Round each row to whole parts of its largest number.

    Args:
        values: `(..., n)`.
        levels: how many parts; up to 255, or 127 where there are numbers below 0.

    Returns:
        `(..., n)` bytes, signed where there are numbers below 0, and the largest of each row `(...)`, float32:
        `codes * largest / levels` is at most `largest / (2 * levels)` away.
    """
    largest = np.abs(values).max(axis=-1, initial=0.0).astype(np.float32)
    divisor = np.where(largest > 0, largest, 1)[..., None]
    codes = np.rint(values / divisor * levels)
    return codes.astype(np.int8 if is_signed(values) else np.uint8), largest


def is_signed(values: np.ndarray) -> bool:
    """Whether there are numbers below 0."""
    return bool(values.min(initial=0.0) < 0)


def packed(values: np.ndarray, room: int) -> Packed:
    """As finely as it fits.

    Args:
        values: `(..., n)`.
        room: how many characters the text may have.

    Raises:
        ValueError: it does not fit.
    """
    signed = is_signed(values)
    for levels in LEVELS:
        if signed and levels > 127:
            continue
        codes, largest = quantise(values, levels)
        if _entropy(codes) / 8 * ENTROPY_MARGIN * 4 / 3 > room:
            continue
        text = encoded(codes, largest)
        if len(text) <= room:
            return Packed(levels, signed, text)
    raise ValueError(f"{values.size:,} numbers do not fit into {room:,} characters")


def encoded(codes: np.ndarray, largest: np.ndarray) -> str:
    """The text of `Packed`."""
    data = largest.astype("<f4").tobytes() + codes.tobytes()
    return base64.b64encode(zlib.compress(data, 6)).decode("ascii")


def _entropy(codes: np.ndarray) -> float:
    """Bits of all codes, if each were told by itself."""
    counts = np.bincount(codes.view(np.uint8).ravel(), minlength=256)
    counts = counts[counts > 0]
    return float(-(counts * np.log2(counts / counts.sum())).sum())
