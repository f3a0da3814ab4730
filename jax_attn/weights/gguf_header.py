"""What stands before the weights in a GGUF file: metadata, and where each tensor lies.

Read here and not by the package gguf, which makes an array of each of a vocabulary's strings and takes seconds.
"""

import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

MAGIC, VERSIONS = b"GGUF", (2, 3)
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
ALIGNMENT = 32  # bytes, where the file does not say


class TensorInfo(NamedTuple):
    """Where a tensor lies.

    Attributes:
        shape: as NumPy has it, the last axis without gaps.
        kind: the number of its type, `gguf.GGMLQuantizationType`.
        start: its first byte in the file.
    """

    shape: tuple[int, ...]
    kind: int
    start: int


class Header(NamedTuple):
    """The metadata by name, and the tensors by name."""

    values: dict[str, Any]
    tensors: dict[str, TensorInfo]


def read_header(path: Path) -> Header:
    """The header of a GGUF file.

    Raises:
        ValueError: it is no GGUF file, of another version, or ends early.
    """
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            raise ValueError(f"{path} is no GGUF file")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                return _Cursor(content).header()
            except (struct.error, UnicodeDecodeError, KeyError, IndexError, OverflowError) as error:
                raise ValueError(f"{path} is corrupt or truncated: {error}") from None


class _Cursor:
    """A place in the file, which moves on with what is read."""

    def __init__(self, content: mmap.mmap):
        self.content, self.at = content, len(MAGIC)

    def header(self) -> Header:
        """All of it."""
        (version,) = self.numbers("I", 1)
        if version not in VERSIONS:
            raise KeyError(f"version {version} is not one of {', '.join(map(str, VERSIONS))}")
        tensors, values = self.numbers("Q", 2)
        metadata = {self.string(): self.value(*self.numbers("I", 1)) for _ in range(values)}
        infos = [(self.string(), self.info()) for _ in range(tensors)]
        alignment = metadata.get("general.alignment", ALIGNMENT)
        data = self.at + -self.at % alignment
        return Header(metadata, {name: info._replace(start=data + info.start) for name, info in infos})

    def info(self) -> TensorInfo:
        """Of a tensor, its start counted from that of the first."""
        (axes,) = self.numbers("I", 1)
        shape = self.numbers("Q", axes)[::-1]
        return TensorInfo(shape, *self.numbers("I", 1), *self.numbers("Q", 1))

    def value(self, kind: int) -> Any:
        """A value of that type: a number, a string, or a list."""
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            return self.numbers(NUMBERS[kind], 1)[0]
        ((of,), (count,)) = self.numbers("I", 1), self.numbers("Q", 1)
        return (
            [*self.numbers(NUMBERS[of], count)] if of in NUMBERS else [self.value(of) for _ in range(count)]
        )

    def numbers(self, code: str, count: int) -> tuple[Any, ...]:
        """So many numbers, in order."""
        found = struct.unpack_from(f"<{count}{code}", self.content, self.at)
        self.at += struct.calcsize(f"<{count}{code}")
        return found

    def string(self) -> str:
        """Its length, and its bytes."""
        (length,) = self.numbers("Q", 1)
        text = self.content[self.at : self.at + length]
        if len(text) < length:
            raise IndexError("it ends within a string")
        self.at += length
        return text.decode("utf-8")
