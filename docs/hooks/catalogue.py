"""The page of the catalogue: what `jax-attn list` writes, with pictures of attention and links to classes."""

from docs.hooks.pictures import pictures
from jax_attn.cli.list import as_markdown

LEGEND = """
The pictures are the weights of a row's first call in the catalogue, with random parameters: queries down, keys
across, two heads side by side, stronger in colour the larger they are, empty where nothing is seen. Where a module
gives no weights, they show how far each token reaches: the norm of the derivative of each output by each input.
"""


def page() -> str:
    """The Markdown."""
    drawn = pictures()
    written = "\n".join(as_markdown(_link, lambda twin: drawn[twin.name]))
    return written.replace("\n## ", f"{LEGEND}\n## ", 1)


def _link(where: str) -> str:
    module, name = where.split(":")
    return f"[`{name}`][jax_attn.{module}.{name}]"
