"""Texts with their classes."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jax_attn.training.data.decoding import shown
from jax_attn.training.data.tables import read_table


class LabelledTexts(NamedTuple):
    """Texts, `(n,)` numbers of their classes, and the names of the classes."""

    texts: list[str]
    labels: np.ndarray
    classes: list[str]


def read_labelled_texts(
    path: Path | str, text_column: str = "text", label_column: str = "label"
) -> LabelledTexts:
    """Read labelled texts from a CSV, TSV, `;`-separated table or JSON Lines.

    Args:
        path: the file.
        text_column: the column of the texts; or its number from 1, where the file has no header.
        label_column: the column of the classes, whatever they are called; numbers are names too.

    Raises:
        OSError: the file cannot be read.
        ValueError: in one line: file, line, what is wrong, and what to do.
    """
    path = Path(path)
    rows = read_table(path, {"--text-column": text_column, "--label-column": label_column})
    texts, labels = [], []
    for line, (text, label) in rows:
        if isinstance(label, int) or (isinstance(label, float) and not math.isnan(label)):
            label = f"{label:g}" if isinstance(label, float) else str(label)
        for option, column, value in (
            ("--text-column", text_column, text),
            ("--label-column", label_column, label),
        ):
            if not isinstance(value, str):
                kind = "NaN" if isinstance(value, float) and math.isnan(value) else type(value).__name__
                raise ValueError(
                    f"{path}, line {line}: {column!r} must be a string, got {kind}; check {option}"
                )
            if not value.strip():
                raise ValueError(f"{path}, line {line}: {column!r} is empty; fill it in or remove the row")
        texts.append(text)
        labels.append(label.strip())
    return labelled_texts(texts, labels, str(path))


def labelled_texts(texts: Sequence[str], labels: Sequence[str], source: str) -> LabelledTexts:
    """Number the classes in the order of their names; raise ValueError unless there is something to learn."""
    classes, numbers = np.unique(np.asarray(labels, dtype=object), return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"{source}: all {len(texts)} texts are of one class, {shown(classes[0])}; there must be two or more: "
            "is --label-column right?"
        )
    if len(classes) == len(texts):
        raise ValueError(
            f"{source}: each of the {len(texts)} texts has a class of its own; there must be several texts to a "
            "class: is --label-column right?"
        )
    return LabelledTexts(list(texts), numbers.astype(np.int32), [str(name) for name in classes])
