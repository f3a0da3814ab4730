"""The chart of a run: how the loss of each framework falls."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

COLOURS = {"jax": "#1f6feb", "torch": "#e5532d"}


def save_curves(
    path: Path,
    losses: Mapping[str, Sequence[float]],
    held_out: Mapping[str, Sequence[tuple[int, float]]] = {},
) -> None:
    """Draw the losses by step as a PNG: each step's faintly, their running mean, and the held-out ones as points.

    Where there are two frameworks, the second is dashed, so that both are seen where they coincide, and a chart
    below has how far they are apart.

    Args:
        path: of the file.
        losses: by framework, that of each step.
        held_out: by framework, pairs of step and loss.
    """
    from matplotlib.figure import Figure

    apart = len(losses) > 1
    figure = Figure(figsize=(8, 6 if apart else 4.5), layout="constrained")
    axes = figure.subplots(
        2 if apart else 1, 1, sharex=True, height_ratios=[3, 1] if apart else None, squeeze=False
    )
    above = axes[0, 0]
    for (name, each), style in zip(losses.items(), ("-", "--"), strict=False):
        steps, colour = np.arange(1, len(each) + 1), COLOURS.get(name)
        above.plot(steps, each, style, color=colour, alpha=0.25, linewidth=0.8)
        width = max(1, len(each) // 50)
        if len(each) >= width:
            mean = np.convolve(each, np.full(width, 1 / width), "valid")
            above.plot(steps[width - 1 :], mean, style, color=colour, label=name)
        if held_out.get(name):
            at, values = zip(*held_out[name], strict=True)
            above.plot(at, values, "o", color=colour, markersize=4, label=f"{name}, held out")
    above.set_ylabel("loss")
    above.legend()
    above.grid(alpha=0.3)
    if apart:
        one, other = (np.asarray(each) for each in list(losses.values())[:2])
        axes[1, 0].semilogy(np.arange(1, len(one) + 1), np.maximum(np.abs(one - other), 1e-17), color="grey")
        axes[1, 0].set_ylabel("apart")
        axes[1, 0].grid(alpha=0.3)
    axes[-1, 0].set_xlabel("step")
    figure.savefig(path, dpi=120)
