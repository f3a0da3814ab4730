"""Which classes are taken for which: counts, as a table in text and as a chart."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

MOST = 20  # classes that are shown with their counts; of more there is no room


def confusion(
    truth: Int[np.ndarray, "n"], predicted: Int[np.ndarray, "n"], classes: int
) -> Int[np.ndarray, "c c"]:
    """How often each class (rows) was taken for each (columns)."""
    return np.bincount(truth * classes + predicted, minlength=classes**2).reshape(classes, classes)


def confusion_table(counts: Int[np.ndarray, "c c"], classes: Sequence[str]) -> Iterator[str]:
    """Lines of text; of many classes, a line for each of the pairs that are mixed up most often."""
    if len(classes) > MOST:
        wrong = counts * (1 - np.eye(len(classes), dtype=int))
        for place in np.argsort(-wrong, axis=None, kind="stable")[:MOST]:
            true, taken = np.unravel_index(place, counts.shape)
            if wrong[true, taken]:
                yield f"{wrong[true, taken]:>8}  {classes[true]} taken for {classes[taken]}"
        return
    names = [name if len(name) <= 12 else name[:11] + "…" for name in classes]
    width = max(len("truth"), *map(len, names), len(str(counts.max())))
    yield "  ".join(["truth".ljust(width), *(name.rjust(width) for name in names), "recall"])
    for number, (name, row) in enumerate(zip(names, counts, strict=True)):
        right = row[number] / max(1, row.sum())
        yield "  ".join([name.ljust(width), *(str(count).rjust(width) for count in row), f"{right:6.1%}"])


def draw_confusion(counts: Int[np.ndarray, "c c"], classes: Sequence[str], path: Path) -> None:
    """Write a chart of them as PNG: shares of each true class, with the counts."""
    from matplotlib.figure import Figure

    size = max(4.0, min(0.9 * len(classes) + 2, 20))
    figure = Figure((size, size), layout="constrained")
    axes = figure.add_subplot(
        xticks=range(len(classes)), yticks=range(len(classes)), xlabel="predicted", ylabel="truth"
    )
    # A dollar in a name begins no formula.
    axes.set_xticklabels(classes, rotation=45, ha="right", parse_math=False)
    axes.set_yticklabels(classes, parse_math=False)
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    if len(classes) <= MOST:
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=colour)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "Glyph"
        )  # of an alphabet that the font lacks: the table has the names
        figure.savefig(path, dpi=150)
