"""The views of a record, each an object that shows itself in a notebook and saves itself."""

from typing import Any

from jax_attn.visualize.page import AttentionPage, View
from jax_attn.visualize.png import Heatmaps
from jax_attn.visualize.record import AttentionRecord


def head_view(record: AttentionRecord, layer: int | None = None, head: int | None = None) -> AttentionPage:
    """Queries on the left, keys on the right, and a line for every weight; colours are heads.

    >>> head_view(record_text("The cat sat.")).save("page.html")  # doctest: +SKIP

    Args:
        record: of `record_text`, `record_image`, `record_attention` or `AttentionRecord.from_weights`.
        layer: the layer that is open first; None is the first one.
        head: the head that is; None is all where there is room.

    Raises:
        ValueError: there is no such layer or head.
    """
    return _page(record, "head", layer, head)


def model_view(record: AttentionRecord) -> AttentionPage:
    """Every layer and head as a thumbnail, to be opened."""
    return _page(record, "model", None, None)


def neuron_view(record: AttentionRecord, layer: int | None = None, head: int | None = None) -> AttentionPage:
    """Of one query, where each score comes from: query times key, dimension by dimension.

    Args:
        record: as in `head_view`.
        layer: as in `head_view`.
        head: as in `head_view`.

    Raises:
        ValueError: as in `head_view`.
    """
    return _page(record, "neuron", layer, head)


def heatmaps(record: AttentionRecord, layer: int | None = None, head: int | None = None) -> Heatmaps:
    """The matrices of weights, in the page and as PNG files.

    Args:
        record: as in `head_view`.
        layer: as in `head_view`.
        head: as in `head_view`.

    Raises:
        ValueError: as in `head_view`.
    """
    page = _page(record, "heatmap", layer, head)
    return Heatmaps(page.record, page.view, page.layer, page.head)


def _page(record: Any, view: View, layer: int | None, head: int | None) -> AttentionPage:
    if not isinstance(record, AttentionRecord):
        raise ValueError(
            f"record must be an AttentionRecord, got {type(record).__name__}: record_text, record_attention and "
            "AttentionRecord.from_weights make one"
        )
    record.select(None if layer is None else [layer], None if head is None else [head])  # both are there
    return AttentionPage(record, view, record.stacks[0].layers[0].number if layer is None else layer, head)
