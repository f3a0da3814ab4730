"""Files that a command is to write: whether it can is told before the work, not after."""

from pathlib import Path


def require_writable(path: Path | None, *endings: str) -> None:
    """A ValueError or OSError unless the file can be written; one of `endings`, where some are given."""
    if path is None:
        return
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected the name of a file")
    if endings and path.suffix.lower() not in endings:
        raise ValueError(f"{path} must end in one of {', '.join(endings)}")
    path.touch()
