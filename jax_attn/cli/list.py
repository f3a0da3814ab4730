"""`jax-attn list`: what there is to verify and to import."""

from rich.console import Console
from rich.table import Table

from jax_attn.catalogue import CATALOGUE


def list_catalogue() -> int:
    """List every variant: its name, its class, what it computes and where it comes from."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "class", "computes", "source"):
        table.add_column(column, overflow="fold")
    for twin in CATALOGUE.values():
        table.add_row(twin.name, "jax_attn." + twin.where.replace(":", "."), twin.summary, twin.source)
    console = Console()
    # A pipe has no width: give every row its line, for grep and awk.
    console.print(table, width=None if console.is_terminal else 400)
    return 0
