"""Small pieces of reports: tables, counts, and values as JSON has them."""

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells, the first the heads, in columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def used_columns(rows: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Return the rows without the columns that are empty below their head."""
    return list(zip(*(column for column in zip(*rows, strict=True) if any(column[1:])), strict=True))


def count(number: int, noun: str) -> str:
    """Return "1 step", "2 steps", "1,000 steps"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def more(number: int) -> str:
    """Return the line that stands for what a short report leaves out; empty for nothing."""
    return f"... and {number:,} more (--verbose, or text(verbose=True), lists them)" if number > 0 else ""


def number(value: float | None, digits: int = 3) -> str:
    """Return a number in a table; "-" for none."""
    return "-" if value is None else f"{value:.{digits}g}"


def word(value: Any) -> str:
    """Return a setting's value."""
    return f"{value:.7g}" if isinstance(value, float) else str(value)


def described(error: Exception, most: int = 400) -> str:
    """Return an exception in a line: its class, and the beginning of its message."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:most]}"


def joined(*parts: str, by: str = "\n\n") -> str:
    """Join the parts that are not empty."""
    return by.join(part for part in parts if part)


def alike(lines: Iterable[str]) -> list[str]:
    """Return the lines; those that differ in the number of a layer alone once, and how many they are."""
    found: dict[str, list[str]] = {}
    for line in lines:
        found.setdefault(re.sub(r"(?<=\.)\d+(?=[.:])", "*", line), []).append(line)
    return [
        same[0] if len(same) == 1 else f"{starred} ({len(same)} of them)" for starred, same in found.items()
    ]


def plain(value: Any) -> Any:
    """Return a value as JSON has it: a number that is not finite becomes "nan", "inf" or "-inf"."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def save_json(path: str | Path, content: Any) -> None:
    """Write what is JSON already to a file."""
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    Path(path).write_text(text + "\n", encoding="utf-8")
