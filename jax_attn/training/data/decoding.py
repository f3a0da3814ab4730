"""The text of a file, or one line that says what is wrong with it and what to do."""

import codecs
from pathlib import Path

MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


def read_text(path: Path) -> str:
    """Return the text of a file in UTF-8, with or without a byte-order mark, or in UTF-16 with one.

    Ends of lines are "\\n" whatever they are in the file.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is empty, or not text in one of these encodings.
    """
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file in it")
    content = path.read_bytes()
    mark, encoding = next(((m, e) for m, e in MARKS if content.startswith(m)), (b"", "utf-8"))
    if encoding == "utf-8" and b"\0" in content:
        line = content[: content.index(b"\0")].count(b"\n") + 1
        raise ValueError(
            f"{path}, line {line}: a zero byte: this is no text, or UTF-16 without a byte-order mark; convert it, "
            f"as in: iconv -f utf-16le -t utf-8 {path.name}"
        )
    try:
        text = content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        before = content[: len(mark) + error.start].decode(encoding, "ignore")
        line, byte = before.count("\n") + 1, content[len(mark) + error.start]
        raise ValueError(
            f"{path}, line {line}: byte {byte:#04x} is not {encoding.removesuffix('-le').removesuffix('-be')}; "
            f"convert the file, as in: iconv -f latin1 -t utf-8 {path.name}"
        ) from None
    if not text.strip():
        raise ValueError(f"{path} is empty; give a file that holds texts")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def shown(value: str, width: int = 60) -> str:
    """`repr(value)`, cut where it is long."""
    return repr(value) if len(value) <= width else repr(value[:width]) + "..."
