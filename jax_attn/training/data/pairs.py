"""Texts with their translations."""

from pathlib import Path
from typing import NamedTuple

from jax_attn.training.data.decoding import read_text
from jax_attn.training.data.tables import read_table


class TextPairs(NamedTuple):
    """Sources and their targets, row by row."""

    sources: list[str]
    targets: list[str]


def read_pairs(
    path: Path | str,
    target_path: Path | str | None = None,
    source_column: str = "source",
    target_column: str = "target",
) -> TextPairs:
    """Read pairs of texts from two columns of a table or of JSON Lines, or from two files line by line.

    Args:
        path: a CSV, TSV, `;`-separated table or JSON Lines; with `target_path`, the sources, one a line.
        target_path: the targets, one a line.
        source_column: the column of the sources; or its number from 1, where the file has no header.
        target_column: the column of the targets, likewise.

    A pair of two empty texts is left out.

    Raises:
        OSError: a file cannot be read.
        ValueError: in one line: file, line, what is wrong, and what to do.
    """
    path = Path(path)
    if target_path is not None:
        return _parallel(path, Path(target_path))
    rows = read_table(path, {"--source-column": source_column, "--target-column": target_column})
    pairs = TextPairs([], [])
    for line, (source, target) in rows:
        for column, value in ((source_column, source), (target_column, target)):
            if not isinstance(value, str) or not value.strip():
                raise ValueError(
                    f"{path}, line {line}: {column!r} holds no text; fill it in or remove the row"
                )
        pairs.sources.append(source.strip())
        pairs.targets.append(target.strip())
    return pairs


def _parallel(path: Path, target_path: Path) -> TextPairs:
    sources, targets = (read_text(p).removesuffix("\n").split("\n") for p in (path, target_path))
    if len(sources) != len(targets):
        raise ValueError(
            f"{path} has {len(sources)} lines and {target_path} {len(targets)}; each line must have its translation"
        )
    pairs = TextPairs([], [])
    for line, (source, target) in enumerate(zip(sources, targets, strict=True), start=1):
        if bool(source.strip()) != bool(target.strip()):
            empty = target_path if source.strip() else path
            raise ValueError(
                f"{empty}, line {line}: empty, but not in the other file; remove the line from both"
            )
        if source.strip():
            pairs.sources.append(source.strip())
            pairs.targets.append(target.strip())
    return pairs
