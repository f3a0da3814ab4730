"""Several texts in one row, so that nothing is padded but the last tokens of a row."""

from collections.abc import Sequence

import numpy as np

from jax_attn.functional.checks import require_positive
from jax_attn.training.data.examples import IGNORED, ArrayExamples, Tokens


def packed_examples(
    documents: Sequence[Tokens], length: int, *, next_token: bool = True, pad_id: int = 0
) -> ArrayExamples:
    """Pack documents into rows: `input_ids`, `segment_ids`, `positions` and `labels`, all `(n, length)`.

    A token attends to its own segment alone, and positions begin anew in each. Documents longer than a row are cut.

    Args:
        documents: tokens. With `next_token` each needs two or more.
        length: of a row.
        next_token: labels are the next token of the same document, and every token but a document's first is a
            label exactly once. Otherwise every token is an input once, and all labels are IGNORED:
            `MaskedBatches` sets them.
        pad_id: what pads rows.

    Raises:
        ValueError: no document is long enough, or a length below 1.
    """
    require_positive("length", length)
    extra = int(next_token)
    pieces = [
        piece
        for document in map(np.asarray, documents)
        for piece in (document[i : i + length + extra] for i in range(0, len(document) - extra, length))
    ]
    if not pieces:
        raise ValueError(f"there is no document of {1 + extra} or more tokens; give longer texts")
    sizes = np.array([len(piece) - extra for piece in pieces])
    rows = pack(sizes, length)
    arrays = {
        "input_ids": np.full((len(rows), length), pad_id, np.int32),
        "segment_ids": np.zeros((len(rows), length), np.int32),
        "positions": np.zeros((len(rows), length), np.int32),
        "labels": np.full((len(rows), length), IGNORED, np.int32),
    }
    for number, row in enumerate(rows):
        start = 0
        for segment, index in enumerate(row, start=1):
            piece, place = pieces[index], slice(start, start + sizes[index])
            arrays["input_ids"][number, place] = piece[: sizes[index]]
            arrays["segment_ids"][number, place] = segment
            arrays["positions"][number, place] = np.arange(sizes[index])
            if next_token:
                arrays["labels"][number, place] = piece[1:]
            start += sizes[index]
    return ArrayExamples(arrays)


def pack(sizes: np.ndarray, length: int) -> list[list[int]]:
    """Put things of these sizes into rows of `length`: long ones first, each into the fullest row that has room.

    The room that rows have left is one integer with a bit for each amount, so that the least that is enough is
    found at once.
    """
    rows: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(length + 1)]  # rows by the room that they have left
    rooms = 0
    for index in np.argsort(-sizes, kind="stable").tolist():
        size = int(sizes[index])
        enough = rooms >> size
        if enough:
            room = size + (enough & -enough).bit_length() - 1
            row = with_room[room].pop()
            rooms &= ~(0 if with_room[room] else 1 << room)
        else:
            room, row = length, len(rows)
            rows.append([])
        rows[row].append(index)
        with_room[room - size].append(row)
        rooms |= 1 << (room - size)
    return rows
