"""Files that a command is to write: whether it can is told before the work, and none is written by half."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path

from jax_attn.weights.files import write_together


def require_writable(path: Path | None, *endings: str) -> None:
    """A ValueError or OSError unless the file can be written; one of `endings`, where some are given."""
    if path is None:
        return
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected the name of a file")
    if endings and path.suffix.lower() not in endings:
        raise ValueError(f"{path} must end in one of {', '.join(endings)}")
    folder = path.resolve().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{path} cannot be written: there is no folder {path.parent}")
    if not os.access(path if path.exists() else folder, os.W_OK):
        raise PermissionError(f"{path} cannot be written: it is not permitted")


def require_outputs(options: Mapping[str, Path | None], inputs: Collection[Path]) -> None:
    """A ValueError or OSError unless each option's file can be written, and is neither another's nor read."""
    taken: dict[Path, str] = {}
    for option, path in options.items():
        if path is None:
            continue
        require_writable(path)
        real = path.resolve()
        if real in {each.resolve() for each in inputs}:
            raise ValueError(f"{option} {path} would replace what this command reads")
        if real in taken and (path.is_file() or not path.exists()):  # a terminal takes what several write
            raise ValueError(f"{option} and {taken[real]} are one file, {path}; expected one for each")
        taken[real] = option


def write_texts(texts: Mapping[Path, str]) -> None:
    """Write files whole, or, where one cannot be, none."""
    whole = {}
    for path, text in texts.items():
        if path.exists() and not path.is_file():  # a terminal or a pipe cannot be replaced
            path.write_text(text, encoding="utf-8")
        else:
            whole[path.resolve()] = lambda temporary, text=text: temporary.write_text(text, encoding="utf-8")
    write_together(whole)
