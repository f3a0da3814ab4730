"""Comparisons as a picture: a bar for each contender, case by case."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.comparison import Comparison

OURS, OTHERS = "#1f6feb", "#b8bfc8"
INCHES_A_BAR = 0.26


def save_chart(comparisons: Sequence[Comparison], path: Path, title: str) -> None:
    """Write a chart of the medians and their ranges to a file: PNG, SVG or PDF by its ending."""
    import matplotlib

    matplotlib.use("Agg")  # no window is needed, and there may be no display
    from matplotlib import pyplot

    bars = [len(comparison.timings) for comparison in comparisons]
    height = sum(INCHES_A_BAR * count + 0.5 for count in bars) + 0.6
    figure, axes = pyplot.subplots(
        len(comparisons),
        figsize=(8, height),
        squeeze=False,
        layout="constrained",
        gridspec_kw={"height_ratios": bars},
    )
    figure.suptitle(
        f"{title}\nmilliseconds; in brackets, how many times as fast the first is", fontsize="medium"
    )
    for axis, comparison in zip(axes[:, 0], comparisons, strict=True):
        _draw(axis, comparison)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _draw(axis, comparison: Comparison) -> None:
    names = list(comparison.timings)
    medians = [1e3 * timing.median for timing in comparison.timings.values()]
    low = [m - 1e3 * min(t.seconds) for m, t in zip(medians, comparison.timings.values(), strict=True)]
    high = [1e3 * max(t.seconds) - m for m, t in zip(medians, comparison.timings.values(), strict=True)]
    colours = [OURS] + [OTHERS] * (len(names) - 1)
    axis.barh(names, medians, xerr=(low, high), color=colours, error_kw={"ecolor": "#555", "elinewidth": 0.8})
    for index, (name, median) in enumerate(zip(names, medians, strict=True)):
        label = f"{median:.3g} ms" if median < 1e3 else f"{median / 1e3:.3g} s"
        label += "" if index == 0 else f"  ({comparison.speed_against(name):.2f}x)"
        place = (median + high[index], index)
        axis.annotate(label, place, (4, 0), textcoords="offset points", va="center", fontsize="small")
    axis.invert_yaxis()
    axis.set_title(comparison.case, loc="left", fontsize="medium")
    axis.margins(x=0.25)
    axis.set_xlim(left=0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.tick_params(labelsize="small")
