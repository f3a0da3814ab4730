"""Outputs of any structure, taken apart into tensors and paired with those of the other side."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any


@dataclass(frozen=True)
class Leaf:
    """Shape and kind of a tensor."""

    shape: tuple[int, ...]
    kind: str

    def __str__(self) -> str:
        return f"a {self.kind} tensor of shape {self.shape}"


@dataclass(frozen=True)
class Group:
    """Values that belong together: in positions, or by name (a NamedTuple by both)."""

    children: tuple[Any, ...]
    names: tuple[str, ...] | None = None
    ordered: bool = True

    def __str__(self) -> str:
        count = "1 value" if len(self.children) == 1 else f"{len(self.children)} values"
        return f"{count} ({', '.join(self.names)})" if self.names is not None else count


@dataclass(frozen=True)
class Nothing:
    """None."""

    def __str__(self) -> str:
        return "None"


Skeleton = Leaf | Group | Nothing


class Mismatch(Exception):
    """Outputs that cannot be compared. `differences` holds (name, message) pairs."""

    def __init__(self, differences: list[tuple[str, str]]):
        self.differences = differences
        super().__init__("; ".join(f"{name}: {message}" for name, message in differences))


def kind_of(dtype: Any) -> str:
    """ "float", "integer", "boolean" or "complex", of a NumPy, JAX or torch dtype."""
    name = str(dtype).removeprefix("torch.")
    for prefix, kind in (
        ("bfloat", "float"),
        ("float", "float"),
        ("complex", "complex"),
        ("bool", "boolean"),
    ):
        if name.startswith(prefix):
            return kind
    return "integer"


def take_apart(value: Any) -> tuple[Skeleton, list[Any]]:
    """The skeleton of `value`, and its tensors in order.

    Tuples, lists, mappings, NamedTuples, dataclasses and what derives from them are opened. A None that has
    a name counts as absent, as in the outputs of `transformers`.
    """
    tensors: list[Any] = []

    def visit(node: Any) -> Skeleton:
        if node is None:
            return Nothing()
        if isinstance(node, bool | int | float | complex):
            tensors.append(node)
            return Leaf((), _python_kind(node))
        if hasattr(node, "shape") and hasattr(node, "dtype"):
            tensors.append(node)
            return Leaf(tuple(node.shape), kind_of(node.dtype))
        children, names, ordered = _open(node)
        return Group(tuple(visit(child) for child in children), names, ordered)

    return visit(value), tensors


def keys_of(path: Sequence[Any]) -> list[Any]:
    """The keys, positions and names in a path of JAX's."""
    return [getattr(key, "key", getattr(key, "idx", getattr(key, "name", key))) for key in path]


def names_of(skeleton: Skeleton) -> list[str]:
    """A name for each tensor: "output" for a lone one, else its position or key, joined by dots."""

    def visit(node: Skeleton, path: tuple[str, ...]) -> Iterator[str]:
        if isinstance(node, Leaf):
            yield ".".join(path) or "output"
        elif isinstance(node, Group):
            labels = node.names or tuple(map(str, range(len(node.children))))
            for label, child in zip(labels, node.children, strict=True):
                yield from visit(child, (*path, label))

    return list(visit(skeleton, ()))


def leaves_of(skeleton: Skeleton) -> list[Leaf]:
    """Shape and kind of each tensor, in order."""
    if isinstance(skeleton, Group):
        return [leaf for child in skeleton.children for leaf in leaves_of(child)]
    return [skeleton] if isinstance(skeleton, Leaf) else []


def differentiated(skeleton: Skeleton) -> list[tuple[int, ...]]:
    """The shapes of the outputs that have gradients, in order; complex ones as pairs of floats."""
    leaves = [leaf for leaf in leaves_of(skeleton) if leaf.kind in ("float", "complex")]
    return [leaf.shape if leaf.kind == "float" else (*leaf.shape, 2) for leaf in leaves]


def pair(torch: Skeleton, flax: Skeleton) -> list[int]:
    """For each tensor of torch in order, the position of flax's tensor that it is compared with.

    Raises:
        Mismatch: the two differ in structure, in a shape or in a kind of dtype. All differences are listed.
    """
    position = iter(range(len(names_of(flax))))
    numbered = _number(flax, position)
    order: list[int] = []
    differences: list[tuple[str, str]] = []

    def visit(expected: Skeleton, given: Any, path: tuple[str, ...]) -> None:
        name = ".".join(path) or "output"
        shape, children = given
        if isinstance(expected, Leaf) and isinstance(shape, Leaf):
            if expected != shape:
                differences.append((name, f"torch gives {expected}, flax {shape}"))
            order.append(children)
        elif isinstance(expected, Group) and isinstance(shape, Group):
            both = _labels(expected, shape)
            if both is None:
                differences.append((name, f"torch gives {expected}, flax {shape}"))
                return
            for label, index, other in both:
                visit(expected.children[index], children[other], (*path, label))
        elif type(expected) is not type(shape):
            differences.append((name, f"torch gives {expected}, flax {shape}"))

    visit(torch, numbered, ())
    if differences:
        raise Mismatch(differences)
    return order


def _labels(expected: Group, given: Group) -> list[tuple[str, int, int]] | None:
    """(label, position in torch's, position in flax's) of each child, or None if they cannot be paired."""
    if expected.names is not None and given.names is not None:
        if set(expected.names) == set(given.names):
            return [(name, i, given.names.index(name)) for i, name in enumerate(expected.names)]
        return None
    if len(expected.children) != len(given.children) or not (expected.ordered and given.ordered):
        return None
    labels = expected.names or given.names or tuple(map(str, range(len(expected.children))))
    return [(label, index, index) for index, label in enumerate(labels)]


def _number(node: Skeleton, position: Iterator[int]) -> Any:
    if isinstance(node, Leaf):
        return node, next(position)
    if isinstance(node, Group):
        return node, [_number(child, position) for child in node.children]
    return node, None


def _open(node: Any) -> tuple[list[Any], tuple[str, ...] | None, bool]:
    """Children of a container, their names if they have any, and whether their order means something."""
    if isinstance(node, Mapping):
        ordered = is_dataclass(node)  # transformers' outputs are both
        items = [(str(key), child) for key, child in node.items()]
    elif isinstance(node, tuple) and hasattr(node, "_fields"):
        ordered = True
        items = list(zip(node._fields, node, strict=True))
    elif isinstance(node, list | tuple):
        return list(node), None, True
    elif is_dataclass(node):
        ordered = True
        items = [(field.name, getattr(node, field.name)) for field in fields(node)]
    else:
        raise TypeError(f"an output of type {type(node).__name__} cannot be compared")
    items = [(name, child) for name, child in items if child is not None]
    return [child for _, child in items], tuple(name for name, _ in items), ordered


def _python_kind(value: Any) -> str:
    for kind, name in ((bool, "boolean"), (int, "integer"), (float, "float")):
        if isinstance(value, kind):
            return name
    return "complex"
