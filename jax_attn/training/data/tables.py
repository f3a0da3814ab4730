"""Tables with named columns: CSV, TSV, `;`- and `|`-separated values, and JSON Lines."""

import csv
import io
import json
import re
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jax_attn.training.data.decoding import read_text, shown

DELIMITERS = {",": "comma", "\t": "tab", ";": "semicolon", "|": "bar"}
JSON_LINES = (".jsonl", ".ndjson")
ANOTHER_KIND = {
    ".xlsx": "save the sheet as CSV UTF-8",
    ".xls": "save the sheet as CSV UTF-8",
    ".ods": "save the sheet as CSV UTF-8",
    ".parquet": 'write it as JSON Lines: DataFrame.to_json("data.jsonl", orient="records", lines=True)',
    ".json": "write one object a line, and name it .jsonl",
    ".gz": "unpack it first",
    ".zip": "unpack it first",
    ".bz2": "unpack it first",
    ".xz": "unpack it first",
    ".zst": "unpack it first",
}
SURROGATE = re.compile("[\ud800-\udfff]")  # JSON may escape half of a pair, which no encoding can write
_FIELD_LIMIT = threading.Lock()  # csv's limit on the length of a field is one number for the whole process


class TableRow(NamedTuple):
    """The values of the wanted columns, and the line where the row begins."""

    line: int
    values: tuple[Any, ...]


def read_table(path: Path, columns: Mapping[str, str]) -> list[TableRow]:
    """Return the wanted columns of each row; rows without any value are left out.

    Args:
        path: `.jsonl` holds one object a line; any other file is a table, whose delimiter (comma, tab, semicolon
            or bar) is the one under which its first line has the wanted columns. Fields may be of any length.
        columns: the option that names a column (messages repeat it), to the column's name in the header. A number
            counts columns from 1, where the file has no header.

    Returns:
        Values are strings; in JSON Lines whatever the file has.

    Raises:
        OSError: the file cannot be read.
        ValueError: what the file lacks: text, a column, a field, by file and line.
    """
    if len({*columns.values()}) < len(columns):
        options, column = " and ".join(columns), next(iter(columns.values()))
        raise ValueError(f"{options} must be different columns, got {column!r} for both")
    suffix = path.suffix.casefold()
    if suffix in ANOTHER_KIND:
        raise ValueError(f"{path}: {suffix} is not read here; {ANOTHER_KIND[suffix]}")
    text = read_text(path)
    rows = list(_json_rows(path, text, columns) if suffix in JSON_LINES else _rows(path, text, columns))
    if not rows:
        raise ValueError(f"{path} holds no rows below its header; add some")
    return rows


def _rows(path: Path, text: str, columns: Mapping[str, str]) -> Iterator[TableRow]:
    first = text.partition("\n")[0]
    headers = {delimiter: _header(first, delimiter) for delimiter in DELIMITERS}
    # Without a header, text may hold commas, and seldom a tab.
    delimiter = max(
        DELIMITERS, key=lambda d: (_found(headers[d], columns), d == "\t" in first, len(headers[d]))
    )
    header = headers[delimiter]
    places = [_place(path, header, option, column) for option, column in columns.items()]
    try:
        rows = _parsed(path, text, delimiter, csv.QUOTE_MINIMAL, len(header))
    except ValueError:
        if delimiter != "\t":
            raise
        rows = _parsed(
            path, text, delimiter, csv.QUOTE_NONE, len(header)
        )  # in many TSVs quotes are but characters
    skipped = 1 if any(column in header for column in columns.values()) else 0
    for line, row in rows[skipped:]:
        yield TableRow(line, tuple(row[place] for place in places))


def _parsed(path: Path, text: str, delimiter: str, quoting: Any, width: int) -> list[tuple[int, list[str]]]:
    """(line where it begins, fields) of each row that is not empty."""
    rows, line = [], 1
    with _FIELD_LIMIT:
        before = csv.field_size_limit(len(text))
        try:
            reader = csv.reader(
                io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True
            )
            for row in reader:
                filled = any(map(str.strip, row))
                if filled and len(row) != width:
                    raise ValueError(
                        f"{path}, line {line}: {len(row)} fields under {width} columns (delimiter: "
                        f"{DELIMITERS[delimiter]}); quote fields that hold the delimiter"
                    )
                if filled:
                    rows.append((line, row))
                line = reader.line_num + 1
        except csv.Error as error:
            raise ValueError(
                f"{path}, line {line}: {error}; a quoted field must be closed, and quotes in it doubled"
            ) from None
        finally:
            csv.field_size_limit(before)
    return rows


def _header(line: str, delimiter: str) -> list[str]:
    """The fields of the first line; where quotes do not go together, the line as one field."""
    try:
        return [field.strip() for field in next(csv.reader([line], delimiter=delimiter, strict=True), [])]
    except csv.Error:
        return [line]


def _found(header: list[str], columns: Mapping[str, str]) -> int:
    return sum(column in header for column in columns.values())


def _place(path: Path, header: list[str], option: str, column: str) -> int:
    if header.count(column) == 1:
        return header.index(column)
    if column in header:
        raise ValueError(
            f"{path} has {header.count(column)} columns {column!r} ({option}); rename all but one"
        )
    if column.isdecimal() and 1 <= int(column) <= len(header):
        return int(column) - 1
    there = ", ".join(shown(name) for name in header[:20])
    raise ValueError(
        f"{path}, line 1: there is no column {column!r}; give {option} one of those there: {there}"
    )


def _json_rows(path: Path, text: str, columns: Mapping[str, str]) -> Iterator[TableRow]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            reason = str(error).partition(":")[0]
            raise ValueError(f"{path}, line {number}: {reason}; each line must be one JSON object") from None
        if not isinstance(row, dict):
            raise ValueError(
                f"{path}, line {number}: {shown(line)} is no JSON object; write {{...}} in each line"
            )
        for option, column in columns.items():
            if column not in row:
                there = ", ".join(map(repr, row))
                raise ValueError(
                    f"{path}, line {number}: there is no {column!r}; give {option} one of those there: {there}"
                )
        values = tuple(row[column] for column in columns.values())
        if any(isinstance(value, str) and SURROGATE.search(value) for value in values):
            raise ValueError(
                f'{path}, line {number}: half of a character, as in "\\ud83d"; write it whole, or remove it'
            )
        yield TableRow(number, values)
