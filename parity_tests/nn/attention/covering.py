"""Rows that show every pair of options together."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np

Row = dict[str, Any]


def covering_array(
    factors: Mapping[str, Sequence[Any]], possible: Callable[[Row], bool] = lambda row: True
) -> list[Row]:
    """Rows of one value for each factor, such that every pair of values that can meet meets in one of them.

    Greedy: the next row is the one, of those that are possible, with the most pairs that are not yet shown.

    Args:
        factors: the values of each.
        possible: whether a row makes sense.
    """
    rows = [row for row in _all_rows(factors) if possible(_named(factors, row))]
    shown = _pairs(np.array(rows))
    left = shown.any(0)
    chosen = []
    while left.any():
        best = int((shown @ left.astype(np.float32)).argmax())
        chosen.append(_named(factors, rows[best]))
        left &= shown[best] == 0
    return chosen


def _all_rows(factors: Mapping[str, Sequence[Any]]) -> Iterator[tuple[int, ...]]:
    return product(*(range(len(values)) for values in factors.values()))


def _named(factors: Mapping[str, Sequence[Any]], row: Sequence[int]) -> Row:
    return {name: values[i] for (name, values), i in zip(factors.items(), row, strict=True)}


def _pairs(rows: np.ndarray) -> np.ndarray:
    """Whether a row shows a pair of values, `(rows, pairs)`, as 0 and 1: each two factors with all their values."""
    each = [column[:, None] == np.unique(column) for column in rows.T]
    both = [one[:, :, None] & other[:, None] for one, other in combinations(each, 2)]
    return np.concatenate([pair.reshape(len(rows), -1) for pair in both], 1).astype(np.float32)
