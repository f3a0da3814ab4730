"""What the documents hold: blocks of Python, notebooks, and command lines, which are read without being run."""

import contextlib
import functools
import importlib
import io
import json
import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
FENCED = re.compile(r"^```(\w*).*?\n(.*?)^```", re.DOTALL | re.MULTILINE)
PROGRAMS = ("jax-attn", "make", "python", "pip", "srun", "mpirun")
INLINE = re.compile(rf"`((?:{'|'.join(PROGRAMS)}) [^`]+)`")
LEFT_OPEN = re.compile(r"\.\.\.|\bNAME\b|\bCOMMAND\b")  # no whole command line
COMMANDS = ("list", "verify", "diff", "trace", "show", "compile")


def blocks(document: Path, *languages: str) -> list[str]:
    """The document's blocks in these languages; "" are those that name none."""
    found = FENCED.findall(document.read_text(encoding="utf-8"))
    return [block for language, block in found if language in languages]


def command_lines(document: Path) -> list[str]:
    """The commands of its blocks, and those in its text; a line that ends in a backslash goes on in the next."""
    text = document.read_text(encoding="utf-8")
    lines = "\n".join(blocks(document, "sh", "bash")).replace("\\\n", " ").splitlines()
    inline = INLINE.findall(FENCED.sub("", text))
    lines += [
        f"{line} --help" if re.fullmatch(r"jax-attn \w+", line) else line for line in inline
    ]  # its name alone
    return [line for line in lines if line.startswith(PROGRAMS) and not LEFT_OPEN.search(line)]


def code_of(notebook: Path) -> str:
    """The code of a notebook as a program; what its cells show at their end is computed, and not shown."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


@dataclass(frozen=True)
class Command:
    """`jax-attn diff port.py`, without what starts it on a cluster (`srun --ntasks=8 jax-attn ...`)."""

    program: str
    arguments: list[str]

    @classmethod
    def of(cls, line: str) -> "Command":
        words = shlex.split(line, comments=True)
        if words[0] in ("srun", "mpirun"):
            words = words[words.index("jax-attn") :]
        return cls(words[0], words[1:])


class DryRun:
    """Parsers of every command of the documents: they refuse what they do not know, and run nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        from jax_attn.cli.train import EXAMPLES, load_example
        from jax_attn.training import TrainingOptions

        for name in COMMANDS:
            module = importlib.import_module(f"jax_attn.cli.{name}")
            function = {"list": "list_catalogue", "compile": "compile_"}.get(name, name)
            monkeypatch.setattr(module, function, _silent(getattr(module, function)))
        benchmarks = importlib.import_module("benchmarks.__main__")
        monkeypatch.setattr(benchmarks, "bench", _silent(benchmarks.bench))
        for name in EXAMPLES.values():
            monkeypatch.setattr(load_example(name), "train", lambda options: None)
        monkeypatch.setattr(TrainingOptions, "join_processes", lambda options: None)

    def status(self, line: str) -> int:
        """The exit status of the command if it did nothing: 0 where its parser takes the line."""
        command = Command.of(line)
        return getattr(self, "_" + re.sub(r"\W", "_", command.program))(command.arguments)

    def _jax_attn(self, arguments: list[str]) -> int:
        from jax_attn.cli.main import main

        with contextlib.redirect_stdout(io.StringIO()):  # the text of --help
            return _exit_status(main, arguments)

    def _make(self, arguments: list[str]) -> int:
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        settings = [word.partition("=")[0] for word in arguments if "=" in word]
        known = set(re.findall(r"^([A-Z_]+) \?=", (ROOT / "Makefile").read_text(), re.MULTILINE))
        return int(
            not (set(settings) <= known and {word for word in arguments if "=" not in word} <= targets)
        )

    def _python(self, arguments: list[str]) -> int:
        program, *rest = arguments
        if program == "-m":
            assert rest[0] == "benchmarks", rest
            return self._benchmarks(rest[1:])
        path = ROOT / program
        assert path.parent.name == "examples", path
        assert path.is_file(), path
        from jax_attn.cli.train import load_example

        example = load_example(path.stem)
        return _exit_status(example.main, rest) if path.stem.startswith("train_") else 0

    def _benchmarks(self, arguments: list[str]) -> int:
        return _exit_status(importlib.import_module("benchmarks.__main__").main, arguments)

    def _pip(self, arguments: list[str]) -> int:
        """Our own extras are those that there are."""
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        asked = {
            name
            for word in arguments
            for name in re.findall(r"[a-z]+\d*", word.partition("[")[2])
            if word[0] == "."
        }
        return int(not asked <= extras.keys())


def _silent(command):
    """A stand-in with the signature and the help of a command."""

    @functools.wraps(command)
    def stand_in(*args, **kwargs) -> int:
        return 0

    return stand_in


def _exit_status(main, arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as error:
        return 0 if error.code is None else int(error.code)
