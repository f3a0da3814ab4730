"""A record as one page: the views, the data they are drawn from, and the program that draws them."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from html import escape
from importlib.resources import files
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from jax_attn.pages.document import document
from jax_attn.visualize.quantise import IN_BASE64, Packed, encoded, finest_size, packed
from jax_attn.visualize.record import AttentionLayer, AttentionRecord

View = Literal["head", "model", "neuron", "heatmap"]
VIEWS: dict[View, str] = {"head": "Heads", "model": "Model", "neuron": "Neurons", "heatmap": "Heatmap"}

# Characters, of a page of less than 10 MB; queries and keys are there only where all of them have room.
ROOM = 9_700_000
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
        here = files("jax_attn.visualize")
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
    size = _size_of_vectors(record)
    vectors = size <= ROOM_FOR_VECTORS
    image = None if record.image is None else _image(record.image, blocks)
    room = ROOM - sum(map(len, blocks.texts)) - (size if vectors else 0)
    weights = _weights(record, blocks, int(room))
    return {
        "view": page.view,
        "layer": page.layer,
        "head": page.head,
        "other": record.other,
        "stacks": [
            {
                "name": stack.name,
                "queries": asdict(stack.queries),
                "keys": asdict(stack.keys),
                "heads": stack.heads,
                "layers": [
                    {
                        "number": layer.number,
                        "path": layer.path,
                        "apart": layer.apart,
                        **weights[id(layer)],
                        **(_vectors(layer, blocks) if vectors else {}),
                    }
                    for layer in stack.layers
                ],
            }
            for stack in record.stacks
        ],
        "vectors": vectors,
        "image": image,
    }


def _weights(record: AttentionRecord, blocks: _Blocks, room: int) -> dict[int, dict[str, Any]]:
    """The blocks of each layer; what is easily said goes first, and leaves its room to the rest."""
    parts = [
        (finest_size(values), id(layer), name, values)
        for stack in record.stacks
        for layer in stack.layers
        for name, values in _matrices(layer)
    ]
    found: dict[int, dict[str, Any]] = {}
    for place, (_, layer, name, values) in enumerate(sorted(parts, key=lambda part: part[0])):
        try:
            packing = packed(values, room // (len(parts) - place))
        except ValueError as error:
            first = record.stacks[0]
            raise ValueError(
                f"this is too much for one page: {len(first.layers)} layers of {len(first.heads)} heads, "
                f"{len(first.queries)} x {len(first.keys)} tokens; choose layers or heads"
            ) from error
        room -= len(packing.text)
        found.setdefault(layer, {})[name] = blocks.add(packing)
    return found


def _matrices(layer: AttentionLayer) -> Iterator[tuple[str, np.ndarray]]:
    yield "weights", layer.weights
    if layer.other is not None:
        yield "other", layer.other
        yield "difference", layer.weights - layer.other


def _vectors(layer: AttentionLayer, blocks: _Blocks) -> dict[str, Any]:
    """Queries and keys, where the scores are their products."""
    if layer.query is None or layer.key is None:
        return {}
    return {
        "query": blocks.add(packed(layer.query, ROOM_FOR_VECTORS)),
        "key": blocks.add(packed(layer.key, ROOM_FOR_VECTORS)),
        "width": layer.query.shape[-1],
    }


def _size_of_vectors(record: AttentionRecord) -> float:
    """Characters of all queries and keys: a byte each, and four for a row."""
    parts = (part for stack in record.stacks for layer in stack.layers for part in (layer.query, layer.key))
    numbers = sum(part.size + 4 * part[..., 0].size for part in parts if part is not None)
    return numbers * IN_BASE64 * 1.01 + 100


def _image(image: np.ndarray, blocks: _Blocks) -> dict[str, Any]:
    """The bytes of the image, which are no rows of numbers."""
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be (height, width, 3) bytes, got {image.dtype} {image.shape}")
    height, width, _ = image.shape
    blocks.texts.append(encoded(image, np.zeros(0, np.float32)))
    return {"block": len(blocks.texts) - 1, "height": height, "width": width}
