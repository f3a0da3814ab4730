"""The command line: `jax-attn list`, `jax-attn verify`."""

from jax_attn.cli.main import main

__all__ = ["main"]
