"""The command line: `jax-attn list`, `verify`, `diff` and `trace`."""

from jax_attn.cli.main import main

__all__ = ["main"]
