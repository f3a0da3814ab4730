"""`jax-attn list`: what there is to verify and to import."""

from itertools import groupby

from rich.markup import escape

from jax_attn.catalogue import CATALOGUE
from jax_attn.cli.terminal import terminal


def list_catalogue() -> int:
    """List every variant under its class: its name, what it computes, and where it comes from.

    `jax-attn list | grep mask` finds those of one kind; `jax-attn verify NAME` proves one.
    """
    console = terminal()
    width = max(map(len, CATALOGUE))
    for where, twins in groupby(CATALOGUE.values(), key=lambda twin: twin.where):
        twins = list(twins)
        console.print(f"[bold]jax_attn.{where.replace(':', '.')}[/bold]  {escape(twins[0].source)}")
        for twin in twins:
            own_source = "" if twin.source == twins[0].source else f" ({twin.source})"
            console.print(f"  {twin.name:{width}}  {escape(twin.summary + own_source)}")
    console.print(f"\n{len(CATALOGUE)} variants; the twin of jax_attn.X is torch_ref.X")
    return 0
