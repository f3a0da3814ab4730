"""Time and memory against the number of tokens, as lines: a slope says how something grows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.comparison import Comparison

COLOURS = ("#1f6feb", "#d9822b", "#8a949e", "#111111")
MARKERS = ("o", "s", "^", "")
MEGABYTE = 2**20


def save_scale_chart(comparisons: Sequence[Comparison], path: Path, title: str) -> None:
    """Write the lines to a file: a column for each dtype and passes; time above, memory below."""
    import matplotlib

    matplotlib.use("Agg")  # no window is needed, and there may be no display
    from matplotlib import pyplot

    columns: dict[str, list[Comparison]] = {}
    for comparison in comparisons:
        columns.setdefault(f"{comparison.facts['dtype']}, {comparison.facts['passes']}", []).append(
            comparison
        )
    names = list(dict.fromkeys(name for comparison in comparisons for name in comparison.timings))
    figure, axes = pyplot.subplots(
        2,
        len(columns),
        figsize=(1.5 + 3.4 * len(columns), 6.4),
        squeeze=False,
        sharex=True,
        sharey="row",
        layout="constrained",
    )
    for column, (heading, cases) in enumerate(columns.items()):
        for place, name in enumerate(names):
            style: dict[str, Any] = {
                "label": name,
                "color": COLOURS[place % 4],
                "marker": MARKERS[place % 4],
                "linestyle": "-" if MARKERS[place % 4] else ":",
                "markersize": 4,
            }
            timed = [c for c in cases if name in c.timings]
            tokens = [c.facts["tokens"] for c in timed]
            axes[0, column].plot(tokens, [1e3 * c.timings[name].median for c in timed], **style)
            held = [c for c in timed if name in c.temporaries and style["marker"]]
            if held:
                memory = [max(c.temporaries[name], 1024) / MEGABYTE for c in held]
                axes[1, column].plot([c.facts["tokens"] for c in held], memory, **style)
        axes[0, column].set_title(heading, fontsize="medium")
        axes[1, column].set_xlabel("tokens")
        ticks = sorted({c.facts["tokens"] for c in cases})
        axes[1, column].set_xscale("log", base=2)
        axes[1, column].set_xticks(ticks, [_short(tick) for tick in ticks])
    for row, label in enumerate(("milliseconds", "MB held beside arguments and results")):
        axes[row, 0].set_ylabel(label)
        axes[row, 0].set_yscale("log")
        for axis in axes[row]:
            axis.grid(True, which="major", linewidth=0.4, alpha=0.6)
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(labelsize="small")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(names), frameon=False)
    figure.suptitle(
        f"{title}\ntorch tells no memory; who is missing at the right would need too much", fontsize="medium"
    )
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _short(tokens: int) -> str:
    return f"{tokens // 1024}k" if tokens >= 1024 and tokens % 1024 == 0 else str(tokens)
