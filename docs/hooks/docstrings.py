"""What the source says, as the site shows it: blocks of docstrings keep their lines, shapes their quotes."""

import dataclasses
import re
from typing import Any

import griffe
import jaxtyping

QUOTES = "'\""
TABLE = re.compile(r"^( *)(=+ +=[= ]*)\n(.*?)\n\1\2$(?!\n\1\S)", re.DOTALL | re.MULTILINE)


def as_markdown(text: str) -> str:
    """A docstring, whose blocks keep their lines."""
    text = re.sub(r"::$", ":", text, flags=re.MULTILINE)
    return TABLE.sub(lambda found: f"{found[1]}```text\n{found[0]}\n{found[1]}```", text)


def quote_shapes(annotation: Any) -> None:
    """Turn `Int[Array, B]` back into `Int[Array, "B"]`: a string of one word is taken for a type."""
    if not isinstance(annotation, griffe.Expr):
        return
    if isinstance(annotation, griffe.ExprSubscript) and hasattr(jaxtyping, str(annotation.left)):
        array, shape = annotation.slice.elements
        annotation.slice.elements = [array, f'"{str(shape).strip(QUOTES)}"']
    for field in dataclasses.fields(annotation):
        part = getattr(annotation, field.name)
        for each in part if isinstance(part, list) else [part]:
            quote_shapes(each)


class Readable(griffe.Extension):
    """Passes docstrings and annotations through the functions above."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Once an object is read."""
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)

    def on_function_instance(self, *, func: griffe.Function, **_: Any) -> None:
        """Once a function is read."""
        quote_shapes(func.returns)
        for parameter in func.parameters:
            quote_shapes(parameter.annotation)
