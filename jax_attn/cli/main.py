"""`jax-attn`: finds the command, and turns what a user got wrong into one line."""

import difflib
import os
import signal
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from io import TextIOWrapper
from itertools import takewhile
from pkgutil import resolve_name
from threading import current_thread, main_thread
from types import FrameType
from typing import Any

from jax_attn import __version__
from jax_attn.host_memory import keep_freed_memory

DESCRIPTION = """Compare Flax NNX modules with their PyTorch originals, and train them.

    jax-attn list                                 what there is to import, and to verify
    jax-attn verify                               prove all of it against its torch twins
    jax-attn verify multi-head --lanes float64    prove one variant in one lane
    jax-attn diff port.py --html port.html        compare your own port with its original
    jax-attn trace original.py --out run          record torch, for a machine that has none
    jax-attn show "The cat sat on the mat."       look at a model's attention, in a page
    jax-attn train classifier                     train on real text, or on your own
    jax-attn compile model.py --topology v5e:4x4  does a training step fit, on devices that are not there?
    jax-attn --version                            this version, and those of the frameworks

The exit status is 0 if all is well, 1 if something differs, and 2 if something is wrong with what was given.
`jax-attn COMMAND --help` shows what a command takes."""

# Where each command is: none is imported before one is run.
COMMANDS = {
    "list": "jax_attn.cli.list:list_catalogue",
    "verify": "jax_attn.cli.verify:verify",
    "diff": "jax_attn.cli.diff:diff",
    "trace": "jax_attn.cli.trace:trace",
    "show": "jax_attn.cli.show:show",
    "compile": "jax_attn.cli.compile:compile_",
    "train": "jax_attn.cli.train:train",
}

# Packages that not every installation has, with those that are needed together with them.
OPTIONAL_PACKAGES = {
    "tyro": ("tyro", "rich"),
    "rich": ("tyro", "rich"),
    "torch": ("torch",),
    "matplotlib": ("matplotlib",),
    "tokenizers": ("tokenizers",),
    "safetensors": ("safetensors",),
    "grain": ("grain",),
    "orbax": ("orbax-checkpoint",),
    "tensorboardX": ("tensorboardX",),
    "sacrebleu": ("sacrebleu",),
}
INTERRUPTED = 130
BROKEN_PIPE = 141  # what a shell reports of a command whose reader has gone


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0 if all is well, 1 if a proof failed and 2 for bad input."""
    given = list(sys.argv[1:] if arguments is None else arguments)

    def run() -> int:
        if given == ["--version"]:
            print(versions())
            return 0
        require_command(given)
        if given[:1] == ["train"]:  # its programs read their own options
            from jax_attn.cli.train import train

            return train(given[1:])
        with ended_by_interrupt("jax-attn"):
            return _application(given).cli(args=names_first(given), prog="jax-attn", description=DESCRIPTION)

    return guarded("jax-attn", run)


def require_command(arguments: Sequence[str]) -> None:
    """Raise ValueError where the first word is no command; it names the nearest."""
    word = next(iter(arguments), "-")
    if word not in COMMANDS and not word.startswith("-"):
        nearest = difflib.get_close_matches(word, COMMANDS, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(COMMANDS)}"
        raise ValueError(f"there is no command {word!r}; {hint}")


def guarded(program: str, run: Callable[[], int]) -> int:
    """Return the exit status of `run`; what a user got wrong is reported in one line, and gives 2.

    A terminal that cannot print a character gets a replacement, and a reader that has gone is no error. What the
    program frees it keeps, which on a CPU is worth a sixth of a training step and more.
    """
    keep_freed_memory()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        status = run()
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it exits
        return BROKEN_PIPE
    except ModuleNotFoundError as error:
        if error.name is not None and error.name not in OPTIONAL_PACKAGES:
            raise
        print(f"{program}: {_missing(error)}", file=sys.stderr)
        return 2
    except (ValueError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return INTERRUPTED


@contextmanager
def ended_by_interrupt(program: str) -> Generator[None]:
    """Within it Ctrl-C ends the process there and then, with a line and the status of an interrupted one.

    The exception that Python raises is swallowed where it lands in a callback of the garbage collector, taken for
    a failure of a module that runs, and ends with a core dump a library of C++ that is being imported.
    """

    from multiprocessing import active_children

    def end(number: int, frame: FrameType | None) -> None:
        if os.isatty(1):
            os.write(1, b"\r\x1b[2K\x1b[?25h")  # the line of progress goes, the cursor comes back
        os.write(2, f"{program}: interrupted\n".encode())
        for worker in active_children():
            worker.terminate()
        os._exit(INTERRUPTED)

    if (
        signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        or current_thread() is not main_thread()
    ):
        yield  # whoever started it has said what an interrupt does
        return
    signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _missing(error: ModuleNotFoundError) -> str:
    """What is missing, and the command that installs it; no index has jax-attn, so the packages are named."""
    if error.name is None:
        return str(error)
    together = OPTIONAL_PACKAGES[error.name]
    missing = [name for name in together if name == error.name or find_spec(name) is None]
    return f"this command needs {error.name}, which is not installed: pip install {' '.join(missing)}"


def versions() -> str:
    """Return our version, and those of what it compares."""
    from importlib.metadata import PackageNotFoundError, version

    def of(name: str) -> str:
        try:
            return version(name)
        except PackageNotFoundError:
            return "not installed"

    found = ", ".join(f"{name} {of(name)}" for name in ("jax", "flax", "optax", "torch"))
    python = ".".join(map(str, sys.version_info[:3]))
    return f"jax-attn {__version__} ({found}, python {python})"


def names_first(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the names that follow `--lanes float64 ...` before it, for it takes all it gets.

    What looks like a lane stays, to be refused as one.
    """

    found = list(arguments)
    if "--lanes" in found:
        from jax_attn.parity.lanes import LANES

        def lane(word: str) -> bool:
            return "." not in word and bool(difflib.get_close_matches(word, LANES, n=1, cutoff=0.7))

        place = found.index("--lanes")
        words = list(takewhile(lambda word: not word.startswith("-"), found[place + 1 :]))
        lanes = list(takewhile(lane, words))
        if lanes:
            found[place : place + 1 + len(words)] = [*words[len(lanes) :], "--lanes", *lanes]
    return found


def _application(arguments: Sequence[str]) -> Any:
    if os.environ.get("NO_COLOR"):
        os.environ.setdefault("PYTHON_TYRO_ANSI_CODES", "False")
    import tyro

    application = tyro.extras.SubcommandApp()
    commands = {name: resolve_name(place) for name, place in COMMANDS.items()}
    for name, command in commands.items():
        application.command(name=name)(command if commands.keys() & set(arguments) else _in_a_line(command))
    return application


def _in_a_line(command: Callable[..., int]) -> Callable[[], int]:
    """A stand-in for the list of all commands, where a line for each is enough."""

    def stand_in() -> int:
        return 2

    stand_in.__doc__ = (command.__doc__ or "").partition("\n\n")[0]
    return stand_in
