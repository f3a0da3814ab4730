"""Weights as bytes: each row rounded to a part of its largest, as finely as there is room, and compressed."""

import base64
import zlib
from typing import NamedTuple

import numpy as np

# Steps from 0 to the largest of a row; with numbers below 0 there are two times as many, so that 127 is the most.
LEVELS = (255, 191, 127, 95, 63, 47, 31, 23, 15, 11, 7, 5, 4, 3, 2, 1)
COMPRESSION = 0.85  # of what the entropy of single bytes says: zlib finds what repeats too
IN_BASE64 = 4 / 3


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
    largest = np.maximum(values.max(axis=-1, initial=0.0), -values.min(axis=-1, initial=0.0))
    largest = largest.astype(np.float32)
    codes = values * (levels / np.where(largest > 0, largest, 1))[..., None]
    return np.rint(codes).astype(np.int8 if is_signed(values) else np.uint8), largest


def is_signed(values: np.ndarray) -> bool:
    """Whether there are numbers below 0."""
    return bool(values.min(initial=0.0) < 0)


def packed(values: np.ndarray, room: int) -> Packed:
    """Pack rows of numbers as finely as they fit.

    Args:
        values: `(..., n)`.
        room: how many characters the text may have.

    Raises:
        ValueError: they do not fit.
    """
    finest = _finest(values)
    codes, largest = quantise(values, finest)
    histogram = _histogram(codes)
    for levels in (each for each in LEVELS if each <= finest):
        if _estimate(histogram, finest, levels) > room:
            continue
        if levels != finest:
            codes, largest = quantise(values, levels)
        text = encoded(codes, largest)
        if len(text) <= room:
            return Packed(levels, is_signed(values), text)
    raise ValueError(f"{values.size:,} numbers do not fit into {room:,} characters")


def finest_size(values: np.ndarray) -> float:
    """About how many characters the numbers take at the finest."""
    finest = _finest(values)
    return _estimate(_histogram(quantise(values, finest)[0]), finest, finest)


def encoded(codes: np.ndarray, largest: np.ndarray) -> str:
    """The text of `Packed`."""
    data = largest.astype("<f4").tobytes() + codes.tobytes()
    return base64.b64encode(zlib.compress(data, 6)).decode("ascii")


def _finest(values: np.ndarray) -> int:
    return 127 if is_signed(values) else 255


def _histogram(codes: np.ndarray) -> np.ndarray:
    """How often each of the codes from -128 to 255 is there."""
    shift = 128 if codes.dtype == np.int8 else 0
    counts = np.bincount((codes.view(np.uint8) + np.uint8(shift)).ravel(), minlength=256)
    found = np.zeros(384, np.int64)
    found[128 - shift : 384 - shift] = counts
    return found


def _estimate(histogram: np.ndarray, finest: int, levels: int) -> float:
    """Characters at `levels`, from the entropy of the codes that those at the finest become."""
    coarse = np.rint(np.arange(-128, 256) * levels / finest).astype(np.int64) + 128
    counts = np.bincount(coarse, weights=histogram)
    counts = counts[counts > 0]
    bits = -(counts * np.log2(counts / counts.sum())).sum()
    return float(bits) / 8 * COMPRESSION * IN_BASE64
