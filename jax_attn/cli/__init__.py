"""The command line: `jax-attn list`, `verify`, `diff`, `trace` and `bench`."""

from jax_attn.cli.main import main

__all__ = ["main"]
