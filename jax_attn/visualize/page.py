"""A record as one page: the views, the data they are drawn from, and the program that draws them."""

import json
from dataclasses import dataclass
from functools import cached_property
from html import escape
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from jax_attn.pages.document import document
from jax_attn.visualize.quantise import Packed, encoded, packed
from jax_attn.visualize.record import AttentionLayer, AttentionRecord, AttentionStack, TokenAxis

View = Literal["head", "model", "neuron", "heatmap"]
VIEWS: dict[View, str] = {"head": "Heads", "model": "Model", "neuron": "Neurons", "heatmap": "Heatmap"}

# Characters, of a page of less than 10 MB.
ROOM_FOR_WEIGHTS = 7_800_000
ROOM_FOR_VECTORS = 1_500_000

CAUTION = (
    "Attention is not explanation: a weight says how much of a value is mixed in, not that the answer rests on it "
    '(<a href="https://arxiv.org/abs/1902.10186">Jain and Wallace 2019</a>; when it may be, '
    '<a href="https://arxiv.org/abs/1908.04626">Wiegreffe and Pinter 2019</a>).'
)


@dataclass(frozen=True)
class AttentionPage:
    """A page that shows itself in a notebook, and saves itself as one file.

    Attributes:
        record: what is shown.
        view: which view is open first: "head", "model", "neuron" or "heatmap".
        layer: the number of the layer that is open first.
        head: that of the head; None is all of them where there is room.
    """

    record: AttentionRecord
    view: View = "head"
    layer: int = 0
    head: int | None = None

    @cached_property
    def html(self) -> str:
        """The whole page.

        Raises:
            ValueError: it would be larger than 10 MB at the coarsest rounding.
        """
        blocks = _Blocks([])
        data = _data(self, blocks)
        scripts = [
            f'<script type="text/plain" id="block{number}">{text}</script>'
            for number, text in enumerate(blocks.texts)
        ]
        said = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
        scripts.append(f'<script type="application/json" id="record">{said}</script>')
        here = files(__package__)
        style, script, body = (
            (here / f"page.{ending}").read_text(encoding="utf-8") for ending in ("css", "js", "html")
        )
        body = body.replace("{title}", escape(self.record.title)).replace("{caution}", CAUTION)
        return document(self.record.title, body + "\n" + "\n".join(scripts), style=style, script=script)

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the page to a file, which needs nothing beside it, and return its path."""
        path = Path(path)
        path.write_text(self.html, encoding="utf-8")
        return path

    def _repr_html_(self) -> str:
        """A frame, so that neither page nor notebook sees the other's styles."""
        return (
            f'<iframe srcdoc="{escape(self.html)}" title="{escape(self.record.title)}" '
            'style="width: 100%; height: 44rem; max-height: 90vh; border: 0"></iframe>'
        )


class _Blocks(NamedTuple):
    """The numbers of a page, which are decoded when they are drawn."""

    texts: list[str]

    def add(self, found: Packed) -> dict[str, Any]:
        """How the program finds them."""
        self.texts.append(found.text)
        return {"block": len(self.texts) - 1, "levels": found.levels, "signed": found.signed}


def _data(page: AttentionPage, blocks: _Blocks) -> dict[str, Any]:
    record = page.record
    layers = sum(len(stack.layers) for stack in record.stacks)
    room = ROOM_FOR_WEIGHTS // layers // (3 if record.other else 1)
    vectors = _vectors_fit(record)
    return {
        "view": page.view,
        "layer": page.layer,
        "head": page.head,
        "other": record.other,
        "stacks": [_stack(stack, blocks, room, vectors) for stack in record.stacks],
        "vectors": vectors,
        "image": None if record.image is None else _image(record.image, blocks),
    }


def _vectors_fit(record: AttentionRecord) -> bool:
    """Whether there is room for all queries and keys, a byte each and four for a row."""
    numbers = sum(
        part.size + 4 * part[..., 0].size
        for stack in record.stacks
        for layer in stack.layers
        for part in (layer.query, layer.key)
        if part is not None
    )
    return numbers * 4 / 3 <= ROOM_FOR_VECTORS


def _stack(stack: AttentionStack, blocks: _Blocks, room: int, vectors: bool) -> dict[str, Any]:
    try:
        layers = [_layer(layer, blocks, room, vectors) for layer in stack.layers]
    except ValueError as error:
        raise ValueError(
            f"this is too much for one page: {len(stack.layers)} layers of {len(stack.heads)} heads, "
            f"{len(stack.queries)} x {len(stack.keys)} tokens; choose layers or heads"
        ) from error
    return {
        "name": stack.name,
        "queries": _axis(stack.queries),
        "keys": _axis(stack.keys),
        "heads": stack.heads,
        "layers": layers,
    }


def _axis(axis: TokenAxis) -> dict[str, Any]:
    return {
        "labels": axis.labels,
        "notes": axis.notes,
        "segments": axis.segments,
        "special": axis.special,
        "grid": axis.grid,
    }


def _layer(layer: AttentionLayer, blocks: _Blocks, room: int, vectors: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "number": layer.number,
        "path": layer.path,
        "weights": blocks.add(packed(layer.weights, room)),
    }
    if layer.other is not None:
        found["other"] = blocks.add(packed(layer.other, room))
        difference = layer.weights.astype(np.float64) - layer.other
        found["difference"] = blocks.add(packed(difference.astype(np.float32), room))
        found["apart"] = float(np.abs(difference).max(initial=0.0))
    if vectors and layer.query is not None and layer.key is not None:
        found["query"] = blocks.add(packed(layer.query, ROOM_FOR_VECTORS))
        found["key"] = blocks.add(packed(layer.key, ROOM_FOR_VECTORS))
        found["width"] = layer.query.shape[-1]
    return found


def _image(image: np.ndarray, blocks: _Blocks) -> dict[str, Any]:
    """The bytes of the image, which are no rows of numbers."""
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be (height, width, 3) bytes, got {image.dtype} {image.shape}")
    height, width, _ = image.shape
    blocks.texts.append(encoded(image, np.zeros(0, np.float32)))
    return {"block": len(blocks.texts) - 1, "height": height, "width": width}
