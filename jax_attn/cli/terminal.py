"""What every command prints on: plain where colours are not wanted, and a line of progress on a terminal."""

import os
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


def terminal() -> Console:
    """Return the console; one without any colour or weight where NO_COLOR is set.

    It prints what it is given: `port.py:train:` is no picture of a tram.
    """
    plain = bool(os.environ.get("NO_COLOR"))
    return Console(highlight=False, emoji=False, soft_wrap=True, color_system=None if plain else "auto")


def tell_written(console: Console, paths: Iterable[Path]) -> None:
    """Say in a line for each which files were written."""
    for path in paths:
        console.print(f"wrote {path}", markup=False)


@contextmanager
def progress_on(console: Console) -> Generator[Callable[[str, str], None]]:
    """On a terminal, a line that says what is being done; in a pipe nothing."""
    if not console.is_terminal:
        yield lambda lane, what: None
        return
    with console.status("starting") as status:
        yield lambda lane, what: status.update(": ".join(part for part in (lane, what) if part))


@contextmanager
def progress_over(console: Console, total: int) -> Generator[Callable[[str], None]]:
    """On a terminal, a bar; yields a function to call with the name of each piece of work when it is done."""
    bar = Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("", total=total)
        yield lambda name: bar.update(task, advance=1, description=name)
