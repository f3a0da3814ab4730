"""Plain text: files, folders of files, and texts in JSON Lines or tables."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jax_attn.training.data.decoding import read_text
from jax_attn.training.data.tables import JSON_LINES, read_table

TABLES = (".csv", ".tsv", *JSON_LINES)
PLAIN = (".txt", ".text", ".md")


def read_texts(
    paths: Path | str | Sequence[Path | str],
    text_column: str = "text",
    unit: Literal["document", "paragraph", "line"] = "document",
) -> list[str]:
    """Return the documents of a file, of several files, or of all files below a folder in the order of their paths.

    Args:
        paths: `.jsonl`, `.csv` and `.tsv` hold a document a row, in `text_column`; any other file is one document.
            In folders, files of other kinds than these and `.txt`, `.text`, `.md` are passed over.
        text_column: where rows have their text.
        unit: documents as they are, or cut at empty lines, or at the end of every line. No unit is empty.

    Raises:
        OSError: a file cannot be read.
        ValueError: in one line: file, line, what is wrong, and what to do.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    if not given:
        raise ValueError("no file given; name a file or a folder")
    files = [file for path in given for file in _files(Path(path))]
    documents = [document for file in files for document in _documents(file, text_column)]
    separator = {"document": None, "paragraph": "\n\n", "line": "\n"}[unit]
    if separator is None:
        return documents
    return [part.strip("\n") for text in documents for part in text.split(separator) if part.strip()]


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.rglob("*") if file.suffix.casefold() in (*PLAIN, *TABLES))
    if not files:
        raise ValueError(f"{path} holds no {', '.join((*PLAIN, *TABLES))}; put texts into it, or name a file")
    return files


def _documents(path: Path, text_column: str) -> list[str]:
    if path.suffix.casefold() not in TABLES:
        return [read_text(path)]
    rows = read_table(path, {"--text-column": text_column})
    for line, (text,) in rows:
        if not isinstance(text, str):
            raise ValueError(
                f"{path}, line {line}: {text_column!r} must be a string, got {type(text).__name__}"
            )
    return [text for _, (text,) in rows if text.strip()]
