"""Rows that show every pair of options together."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any

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
    pairs = [frozenset(_pairs(row)) for row in rows]
    left = set().union(*pairs)
    chosen = []
    while left:
        best = max(range(len(rows)), key=lambda i: len(pairs[i] & left))
        chosen.append(_named(factors, rows[best]))
        left -= pairs[best]
    return chosen


def _all_rows(factors: Mapping[str, Sequence[Any]]) -> Iterator[tuple[int, ...]]:
    return product(*(range(len(values)) for values in factors.values()))


def _named(factors: Mapping[str, Sequence[Any]], row: Sequence[int]) -> Row:
    return {name: values[i] for (name, values), i in zip(factors.items(), row, strict=True)}


def _pairs(row: Sequence[int]) -> Iterator[tuple[int, int, int, int]]:
    """Each two factors with their values."""
    for one, other in combinations(range(len(row)), 2):
        yield one, row[one], other, row[other]
