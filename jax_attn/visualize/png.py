"""Heatmaps as PNG files, a file for each layer, drawn by matplotlib."""

import warnings
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from jax_attn.visualize.page import AttentionPage
from jax_attn.visualize.record import AttentionLayer, AttentionRecord, AttentionStack, TokenAxis

# Tried after matplotlib's own font, which has Latin, Greek, Cyrillic, Arabic and Hebrew.
FONTS = (
    "Noto Sans CJK KR", "NanumGothic", "Malgun Gothic", "Apple SD Gothic Neo", "UnDotum", "Noto Sans CJK JP",
    "Noto Sans CJK SC", "Microsoft YaHei", "PingFang SC", "WenQuanYi Zen Hei", "Noto Sans", "Noto Emoji",
)  # fmt: skip
MOST_LABELS = 40
COLUMNS = 4


class Heatmaps(AttentionPage):
    """The page, open at its heatmaps, which it also saves as PNG."""

    def save_png(self, folder: str | PathLike[str]) -> list[Path]:
        """Write a PNG for each layer, with a heatmap for each head, and return their paths.

        Raises:
            ModuleNotFoundError: matplotlib is not installed.
        """
        return save_png(self.record, folder)


def save_png(record: AttentionRecord, folder: str | PathLike[str]) -> list[Path]:
    """Write a PNG for each layer, with a heatmap for each head.

    Args:
        record: all of it is drawn; `select` takes a part.
        folder: made where it is not there. The files are `encoder-00.png` and so on.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for stack in record.stacks:
        for layer in stack.layers:
            path = folder / f"{stack.name.replace('/', '_')}-{layer.number:02}.png"
            with warnings.catch_warnings():  # a character that no font has is a box; the page has it
                warnings.filterwarnings("ignore", message=r"(Glyph|Matplotlib currently)")
                FigureCanvasAgg(draw(stack, layer)).print_png(str(path))
            paths.append(path)
    return paths


def draw(stack: AttentionStack, layer: AttentionLayer) -> Any:
    """A figure with a heatmap for each head; bright is the largest weight of the head."""
    from matplotlib.figure import Figure

    heads = len(stack.heads)
    columns = min(COLUMNS, heads)
    rows = -(-heads // columns)
    size = 3.2 if max(len(stack.queries), len(stack.keys)) <= 16 else 5.0
    figure = Figure(figsize=(size * columns, size * rows + 0.4), layout="constrained")
    figure.suptitle(f"{stack.name}, layer {layer.number}")
    for place, head in enumerate(stack.heads):
        axes = figure.add_subplot(rows, columns, place + 1)
        weights = layer.weights[place]
        low = float(min(weights.min(), 0.0))
        axes.imshow(weights, cmap="viridis", vmin=low, aspect="auto", interpolation="nearest")
        axes.set_title(f"head {head}, up to {weights.max():.2f}", fontsize=9)
        _label(axes.xaxis, stack.keys, rotation=90)
        _label(axes.yaxis, stack.queries, rotation=0)
        if place % columns == 0:
            axes.set_ylabel("query")
        if place >= heads - columns:
            axes.set_xlabel("key")
    return figure


def _label(axis: Any, tokens: TokenAxis, rotation: int) -> None:
    if len(tokens) <= MOST_LABELS:
        labels = [_plain(label) for label in tokens.labels]
        axis.set_ticks(np.arange(len(tokens)), labels, fontfamily=_fonts())
        axis.set_tick_params(labelsize=7, labelrotation=rotation)


@cache
def _fonts() -> list[str]:
    """The fonts to look for a character in, of those that are installed."""
    from matplotlib.font_manager import fontManager

    there = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in FONTS if name in there)]


def _plain(label: str) -> str:
    """Text that matplotlib takes for no formula."""
    return label.replace("$", r"\$")
