"""To which few widths sequences are padded."""

from collections.abc import Mapping

import numpy as np

CANDIDATES = 256  # places where one width may end and the next begin


def padded_widths(lengths: Mapping[str, np.ndarray], shapes: int = 4) -> dict[str, list[int]]:
    """Choose `shapes` widths for each kind of sequence, so that the least is padded.

    Rows are sorted by their length, that of all their sequences together, and cut into `shapes` ranges; a row is
    padded to the longest of its range. Which cuts leave the least padding is found exactly (by dynamic
    programming) among 256. A few long texts then cost a width of their own, and not the padding of a quarter.

    Args:
        lengths: by name, `(n,)`.
        shapes: the number of ranges.

    Returns:
        By name, the widths in rising order, some of them equal where fewer will do. Those of one rank belong
        together. They are multiples of 8 where texts are long.
    """
    order = np.argsort(np.sum(list(lengths.values()), axis=0), kind="stable")
    tops = {name: _rounded(np.maximum.accumulate(values[order])) for name, values in lengths.items()}
    width = np.sum(list(tops.values()), axis=0)
    ends = np.flatnonzero(np.append(np.diff(width) > 0, True))  # the last row of each width
    ends = ends[np.unique(np.linspace(0, len(ends) - 1, CANDIDATES).round().astype(int))]
    cuts = _cheapest_cuts(ends + 1, width[ends].astype(float), shapes)
    return {name: [int(top[ends[cut]]) for cut in cuts] for name, top in tops.items()}


def _rounded(tops: np.ndarray) -> np.ndarray:
    """Up to a multiple of at most a sixteenth of the longest, but not beyond that."""
    multiple = min(8, max(1, tops[-1] // 16))
    return np.minimum(-(-tops // multiple) * multiple, tops[-1])


def _cheapest_cuts(rows: np.ndarray, width: np.ndarray, shapes: int) -> list[int]:
    """Where ranges end, as indices of candidates: `rows` up to each, and the `width` to which they are padded."""
    earlier = np.tri(len(rows), k=-1, dtype=bool)
    last_range = np.where(
        earlier, width[:, None] * (rows[:, None] - rows), np.inf
    )  # from candidate i to j, [j, i]
    cost, before = width * rows, []
    for _ in range(shapes - 1):
        with_another = cost + last_range
        best = with_another.argmin(axis=1)
        fewer = cost <= with_another.min(axis=1)
        before.append(np.where(fewer, np.arange(len(rows)), best))
        cost = np.minimum(cost, with_another.min(axis=1))
    cuts = [len(rows) - 1]
    for step in reversed(before):
        cuts.append(int(step[cuts[-1]]))
    return cuts[::-1]
