"""`jax-attn`: finds the command, and turns what a user got wrong into one line."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

DESCRIPTION = """Compare Flax NNX modules with their PyTorch originals.

The exit status is 0 if all is well, 1 if something differs, and 2 if something is wrong with what was given.
`jax-attn COMMAND --help` shows what a command takes."""
MISSING_EXTRA = "jax-attn needs {name} for this command; install it with: pip install 'jax-attn[torch,cli]'"
OPTIONAL_PACKAGES = ("torch", "tyro", "rich", "matplotlib", "tokenizers", "safetensors")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0 if all is well, 1 if a proof failed and 2 for bad input."""

    def run() -> int:
        return _application(sys.argv[1:] if arguments is None else arguments).cli(
            args=arguments, prog="jax-attn", description=DESCRIPTION
        )

    return guarded("jax-attn", run)


def guarded(program: str, run: Callable[[], int]) -> int:
    """The exit status of `run`; what a user got wrong is told in one line, and gives 2."""
    try:
        return run()
    except (ValueError, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name not in OPTIONAL_PACKAGES:
            raise
        print(MISSING_EXTRA.format(name=error.name), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return 130


def _application(arguments: Sequence[str]) -> Any:
    import tyro

    from jax_attn.cli.diff import diff
    from jax_attn.cli.list import list_catalogue
    from jax_attn.cli.trace import trace
    from jax_attn.cli.verify import verify

    application = tyro.extras.SubcommandApp()
    commands: dict[str, Callable[..., int]] = {
        "list": list_catalogue,
        "verify": verify,
        "diff": diff,
        "trace": trace,
    }
    for name, command in commands.items():
        application.command(name=name)(command if commands.keys() & set(arguments) else _in_a_line(command))
    return application


def _in_a_line(command: Callable[..., int]) -> Callable[[], int]:
    """A stand-in for the list of all commands, where a line for each is enough."""

    def stand_in() -> int:
        return 2

    stand_in.__doc__ = (command.__doc__ or "").partition("\n\n")[0]
    return stand_in
