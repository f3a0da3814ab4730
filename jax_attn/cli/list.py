"""`jax-attn list`: what there is to verify and to import."""

import inspect
import re
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import tyro
from rich.markup import escape

from jax_attn.catalogue import CATALOGUE, Twin
from jax_attn.cli.terminal import terminal
from jax_attn.models.part import Part, locate

ROOMS = {
    "from_scratch": "The ladder: from dot products to FlexAttention",
    "nn.primitives": "Primitives",
    "nn.positions": "Positions",
    "nn.attention": "Attention",
    "nn.layers": "Layers",
    "models": "Models",
}

SENTENCE = re.compile(r"(`[^`]*`|[^`])*?\.(?= |$)")  # a full stop in code ends none
DEEPEST = 1  # of the parts that are shown with their arguments


def list_catalogue(
    markdown: Annotated[bool, tyro.conf.arg(help="print the table of docs/catalogue.md")] = False,
) -> int:
    """List every variant by room and class: its name, what it computes, and where it comes from.

    `jax-attn list | grep mask` finds those of one kind; `jax-attn verify NAME` proves one.
    """
    if markdown:
        print("\n".join(as_markdown()))
        return 0
    console = terminal()
    width = max(map(len, CATALOGUE))
    for room, classes in by_room():
        console.print(f"[bold underline]{ROOMS[room]}[/bold underline]")
        for where, twins in classes:
            console.print(f"[bold]jax_attn.{where.replace(':', '.')}[/bold]  {escape(twins[0].source)}")
            console.print(f"  [dim]{escape(first_line(where))}[/dim]")
            for twin in twins:
                own_source = "" if twin.source == twins[0].source else f" ({twin.source})"
                console.print(f"  {twin.name:{width}}  {escape(twin.summary + own_source)}")
    console.print(f"\n{len(CATALOGUE)} variants; the twin of jax_attn.X is torch_ref.X")
    return 0


def by_room() -> Iterator[tuple[str, list[tuple[str, list[Twin]]]]]:
    """Each room with its classes, and each class with its rows."""
    for room in ROOMS:
        twins = [twin for twin in CATALOGUE.values() if f"{twin.where.split(':')[0]}.".startswith(f"{room}.")]
        classes: dict[str, list[Twin]] = {}
        for twin in twins:
            classes.setdefault(twin.where, []).append(twin)
        yield room, list(classes.items())


def first_line(where: str) -> str:
    """What the class is, or its formula: the first line of its docstring."""
    return (inspect.getdoc(locate("jax_attn", where)) or "").splitlines()[0]


def formula(where: str) -> str:
    """What the class computes: the first sentence of its docstring's second paragraph, where that is a formula."""
    _, *paragraphs = (inspect.getdoc(locate("jax_attn", where)) or "").split("\n\n")
    sentence = SENTENCE.match(" ".join(paragraphs[0].split())) if paragraphs else None
    return sentence[0] if sentence and sentence[0].startswith("`") else ""


def _code(where: str) -> str:
    return f"`{where.split(':')[1]}`"


def as_markdown(
    title: Callable[[str], str] = _code, picture: Callable[[Twin], str | None] | None = None
) -> Iterator[str]:
    """The lines of docs/catalogue.md.

    Args:
        title: of a class, given `module:Class`.
        picture: of a row, as HTML; None leaves the column of pictures out.
    """
    yield "# Catalogue"
    yield ""
    yield "For those who look for a variant: what each computes, and where it comes from. `jax-attn list` shows the"
    yield "same, and `jax-attn verify NAME` proves one against its torch twin."
    columns = ["name", "what it computes", "options", "source", *([] if picture is None else ["picture"])]
    for room, classes in by_room():
        yield f"\n## {ROOMS[room]}"
        for where, twins in classes:
            yield f"\n### {title(where)}\n\n`jax_attn.{where.split(':')[0]}`: {first_line(where)}"
            yield from filter(None, [formula(where)])
            yield f"\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}"
            for twin in twins:
                cells = [f"`{twin.name}`", twin.summary, f"`{_options(twin)}`", twin.source]
                cells += [] if picture is None else [picture(twin) or ""]
                yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _options(twin: Twin) -> str:
    return ", ".join(f"{name}={_shown(value)}" for name, value in twin.arguments.items()) or "none"


def _shown(value: Any, depth: int = 0) -> str:
    """An argument as it is written; of the parts of a part's parts, only the names."""
    if isinstance(value, Part):
        arguments = ", ".join(f"{name}={_shown(given, depth + 1)}" for name, given in value.arguments.items())
        return f"{value.where.split(':')[1]}({arguments if depth < DEEPEST else '…'})"
    if isinstance(value, list | tuple):
        shown = [_shown(each, depth) for each in value]
        same = len(shown) > 1 and len(set(shown)) == 1
        return f"[{shown[0]}] * {len(shown)}" if same else f"[{', '.join(shown)}]"
    return value.__name__ if callable(value) else repr(value)
