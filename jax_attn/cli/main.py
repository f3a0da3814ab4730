"""`jax-attn`: finds the command, and turns what a user got wrong into one line."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

MISSING_EXTRA = "jax-attn needs {name} for this command; install it with: pip install 'jax-attn[torch,cli]'"
OPTIONAL_PACKAGES = ("torch", "tyro", "rich", "matplotlib", "tokenizers", "safetensors")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit status is 0 if all is well, 1 if a proof failed and 2 for bad input."""
    try:
        return _application().cli(args=arguments, prog="jax-attn", description=__doc__)
    except (ValueError, OSError) as error:
        print(f"jax-attn: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        if error.name not in OPTIONAL_PACKAGES:
            raise
        print(MISSING_EXTRA.format(name=error.name), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("jax-attn: interrupted", file=sys.stderr)
        return 130


def _application() -> Any:
    import tyro

    from jax_attn.cli.bench import bench
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
        "bench": bench,
    }
    for name, command in commands.items():
        application.command(name=name)(command)
    return application
