"""Comparisons as lines on a terminal, each as soon as it is done."""

from collections.abc import Iterator, Sequence

from rich.console import Console

from benchmarks.comparison import Comparison, geometric_mean
from jax_attn.cli.terminal import progress_over

MEGABYTE = 2**20


def measure(
    console: Console, count: int, names: Sequence[str], comparisons: Iterator[Comparison]
) -> list[Comparison]:
    """Print each of `count` comparisons as it is done, who took no part, and the mean of the ratios at the end."""
    done: list[Comparison] = []
    console.print(line("", names), style="bold")
    with progress_over(console, count) as advance:
        for comparison in comparisons:
            done.append(comparison)
            console.print(line(comparison.case, [cell(comparison, name) for name in names]), markup=False)
            advance(comparison.case)
    for reason in dict.fromkeys(
        f"{name} took no part in {comparison.case}: {reason}"
        for comparison in done
        for name, reason in comparison.left_out.items()
    ):
        console.print(reason, markup=False)
    for name in names[1:]:
        ratios = [comparison.speed_against(name) for comparison in done if name in comparison.timings]
        if len(ratios) > 1:
            mean, least = geometric_mean(ratios), min(ratios)
            text = f"{mean:.2f} times as fast as {name} (geometric mean of {len(ratios)}; least {least:.2f})"
            console.print(text, markup=False)
    return done


def line(first: str, cells: Sequence[str]) -> str:
    """A row of the table."""
    return "  ".join([first.ljust(50), *(cell.ljust(26) for cell in cells)]).rstrip()


def cell(comparison: Comparison, name: str) -> str:
    """What one contender needed: time, our speed against it, memory."""
    if name not in comparison.timings:
        return "left out" if name in comparison.left_out else "-"
    timing = comparison.timings[name]
    parts = [f"{1e3 * timing.median:7.1f} ms"]
    parts.append("      " if timing is comparison.ours else f"{comparison.speed_against(name):5.2f}x")
    if name in comparison.temporaries:
        parts.append(f"{comparison.temporaries[name] / MEGABYTE:5.0f} MB")
    return " ".join(parts)
