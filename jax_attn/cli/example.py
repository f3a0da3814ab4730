"""What the programs in examples/ have in common on the command line: presets, options, errors in one line."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TypeVar

from jax.errors import JaxRuntimeError

from jax_attn.cli.main import guarded
from jax_attn.training.making import precision
from jax_attn.training.options import TrainingOptions

Options = TypeVar("Options", bound=TrainingOptions)


def run_example(
    program: str,
    presets: Mapping[str, Options],
    train: Callable[[Options], object],
    description: str | None,
    arguments: Sequence[str] | None = None,
    implied: Mapping[str, str] | None = None,
) -> int:
    """Return the exit status: 0 if all went well, 1 if a loss is not finite or memory runs out, 2 for bad input.

    All are reported in one line.

    Args:
        program: the name of the program, before its errors and in its help.
        presets: options by the name that `--preset` takes; the first is the default. Other flags change one option
            of a preset.
        train: what is done with the options.
        description: the text at the head of the help.
        arguments: of the command line; None are those of the process.
        implied: by flag, or `--flag=value`, the preset that is taken where it is given and `--preset` is not; the
            first counts.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)

    def run() -> int:
        options = parsed(program, presets, description, given, implied or {})
        options.join_processes()
        try:
            with precision(options):  # models may be built, and read, before and after `fit`
                train(options)
        except FloatingPointError as error:
            print(f"{program}: {error}", file=sys.stderr)
            return 1
        except JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            remedies = "a smaller --batch-size, or its parts one after another (--accumulate)"
            print(f"{program}: {str(error).splitlines()[0].rstrip('.')}; try {remedies}", file=sys.stderr)
            return 1
        return 0

    return guarded(program, run)


def parsed(
    program: str,
    presets: Mapping[str, Options],
    description: str | None,
    arguments: Sequence[str],
    implied: Mapping[str, str],
) -> Options:
    """The options of a command line."""
    if os.environ.get("NO_COLOR"):
        os.environ.setdefault("PYTHON_TYRO_ANSI_CODES", "False")
    import tyro

    words = {*arguments, *(word.partition("=")[0] for word in arguments), *map("=".join, pairwise(arguments))}
    first = next((preset for flag, preset in implied.items() if flag in words), next(iter(presets)))
    chosen = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    chosen.add_argument("--preset", default=first)
    name = chosen.parse_known_args(arguments)[0].preset
    # A preset that is not there is refused below, by the type of the option. Where `__post_init__` refuses a value,
    # tyro would draw a box of several lines: so it is called when the parsing is done.
    default = presets.get(name, presets[first])
    kind = type(default)
    unchecked = type(
        kind.__name__, (kind,), {"__post_init__": lambda options: None, "__module__": kind.__module__}
    )
    given = tyro.cli(
        unchecked, prog=program, default=unchecked(**vars(default)), args=arguments, description=description
    )
    return kind(**vars(given))
