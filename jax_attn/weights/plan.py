"""How the tensors of one checkpoint become a module: by which names, what is left out, and what it lacks."""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from jax_attn.models.part import Part
from jax_attn.weights.config import LAYERS, matches
from jax_attn.weights.family import Family, Head
from jax_attn.weights.rules import Names, Slot, rename

# Arguments of parts that are lengths of an axis of a tensor, learned or computed.
AXES = (
    *("embed_dim", "embedding_dim", "hidden_dim", "num_embeddings"),
    *("hidden_size", "intermediate_size", "max_position_embeddings"),  # of `Bert`
)


@dataclass(frozen=True)
class Plan:
    """How the tensors of one checkpoint become a module.

    Attributes:
        family: its family.
        architecture: the class to build.
        names: what turns our keys into those of the file; see `slots`.
        inner: what the file puts before the keys of the model without its head.
        outer: what it puts before all keys.
        settings: what the file's keys say of the model: parts that it has not.
        left_out: keys of the file that the module has no use for.
        unread: those of them that are saved again, and as which keys.
        tied: keys of the file whose tensors must equal that of another key, and that key.
        drawn: paths of the variables that the file has no weights for, which are drawn anew.
        notes: what the user should know of it, in a few words each.
    """

    family: Family
    architecture: str
    names: Names
    inner: str = ""
    outer: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    left_out: Sequence[str] = ()
    unread: Mapping[str, str] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    drawn: Collection[str] = ()
    notes: Sequence[str] = ()


def plan_for(
    family: Family, architecture: str, keys: Sequence[str], names: Names, said: Mapping[str, Any]
) -> Plan:
    """The plan for a file with these keys, as far as it can be known before there is a module.

    Args:
        family: its family.
        architecture: the class to build.
        keys: those of the file.
        names: the user's, applied after ours.
        said: what `config.json` and the user say of the model.

    Raises:
        ValueError: there are several models in it.
    """
    old = family.old_names if any(key.endswith(new) for _, new in family.old_names for key in keys) else ()
    base = [*family.names, *old, *names]
    place = outer_place(rename(family.anchor, base), keys)
    # The file may be that of the model alone, or of one with any head, whichever of them is wanted.
    inner = max((each for each in family.prefixes if place.endswith(each)), key=len)
    outer = place.removesuffix(inner)
    head = family.heads.get(architecture)
    if head is None:
        in_file = [*base, *_prefixing(place)]
    else:
        in_file = [*base, *head.names, (r"^model\.", inner), *_prefixing(outer)]
    notes = [f"took the prefix {outer!r} off the names of the weights"] if outer else []
    settings = {}
    if head is not None:
        for setting, key in head.optional.items():
            if said.get(setting) is not False and rename(key, in_file) not in keys:
                settings[setting] = False
    else:
        for setting, key in family.optional.items():
            if said.get(setting) is not False and rename(key, in_file) not in keys:
                settings[setting] = False
                notes.append(f"built without a {_part(key)}, since the checkpoint has none")
    return Plan(family, architecture, in_file, inner, outer, settings, notes=notes)


def fitted(
    plan: Plan, table: Sequence[Slot], shapes: Mapping[str, Sequence[int]], own: bool, reshaped: bool = False
) -> Plan:
    """The plan, once the module's slots are known: what of the file is left out, and what is drawn anew.

    Args:
        plan: of `plan_for`.
        table: the slots of the module.
        shapes: of the tensors of the file, by key.
        own: whether the file was saved by the class that is built: then it must have all of its head.
        reshaped: whether the user asked for a head of another size than the file's.
    """
    family, head = plan.family, plan.family.heads.get(plan.architecture)
    expected = {place.key for slot in table for place in slot.places}
    extra = [key for key in shapes if key not in expected]
    constants = [plan.outer + before + each for each in family.constants for before in {plan.inner, ""}]
    parts = tuple(
        rename(f"model.{key}" if head else key, plan.names).rpartition(".")[0] + "."
        for key in family.optional.values()
    )
    tied = {} if head is None else dict(_tied(plan, head, extra, expected))
    doubles = () if head is None else [plan.outer + key for key in head.doubles]
    known = [key for key in extra if matches(key, constants) or key in tied or key in doubles]
    rest = [key for key in extra if key not in known]
    others = [plan.outer + each for each in (*family.others, *(head.others if head else ()))]
    # What is not expected of a head that the model has is an error.
    others = [each for each in others if not any(key.startswith(each) for key in expected)]
    heads = [key for key in rest if key.startswith(tuple(others))]
    unused = [key for key in rest if key.startswith(parts) and key not in heads]
    drawn = [] if head is None else _lacking(plan, table, shapes, own, reshaped)
    notes = list(plan.notes)
    if heads:
        notes.append(f"left out the head of another task: {', '.join(heads)}")
    if unused:
        notes.append(f"left out what {plan.architecture} has no use for: {', '.join(unused)}")
    if drawn:
        told = ", ".join(slot.places[0].key for slot in drawn)
        notes.append(f"drew weights anew, for the checkpoint has none that fit: {told}")
    return replace(
        plan,
        left_out=[*known, *heads, *unused, *(place.key for slot in drawn for place in slot.places)],
        unread={key: key.removeprefix(plan.outer) for key in doubles if key in extra and key not in tied},
        tied=tied,
        drawn={slot.path for slot in drawn},
        notes=notes,
    )


def require_as_many_layers(part: Part, keys: Collection[str]) -> None:
    """Raise ValueError if a stack has more layers than the file has tensors: building thousands takes minutes."""
    layers = longest_stack(part)
    if layers > len(keys):
        held = f"{len(keys)}: {next(iter(keys))}, ..." if keys else "none"
        raise ValueError(
            f"it asks for {layers} layers, which have a tensor each at least; the weights hold {held}"
        )


def require_sizes_in(part: Part, shapes: Mapping[str, Sequence[int]], said: Mapping[str, Any]) -> None:
    """Raise ValueError if an axis of the model is longer than the file has numbers, before tables are computed.

    Args:
        part: the model.
        shapes: of the tensors of the file, by key.
        said: what `config.json` and the user say of the model.
    """
    held = sum(map(math.prod, shapes.values()))
    largest = max(sizes_of(part), default=0)
    if largest > held:
        names = [f"{name}={value}" for name, value in said.items() if value == largest]
        asked = " and ".join(names) or f"a size of {largest}"
        raise ValueError(f"it asks for {asked}, and all weights together hold {held} numbers")


def sizes_of(part: Part) -> Iterator[int]:
    """The lengths of axes that the parts of the model have in common with their tensors."""
    for name, value in part.arguments.items():
        if name in AXES and isinstance(value, int):
            yield value
        within = value if isinstance(value, list) else [value]
        for each in {id(each): each for each in within if isinstance(each, Part)}.values():
            yield from sizes_of(each)


def longest_stack(part: Part) -> int:
    """The most layers that one stack of the model has."""
    lengths = [0]
    for name, value in part.arguments.items():
        within = value if isinstance(value, list) else [value]
        parts = {id(each): each for each in within if isinstance(each, Part)}
        lengths += [len(within), *map(longest_stack, parts.values())] if parts else []
        lengths += [value] if name in LAYERS else []
    return max(lengths)


def _tied(
    plan: Plan, head: Head, extra: Collection[str], expected: Collection[str]
) -> Iterator[tuple[str, str]]:
    """The keys of the file that are a second name of a tensor, and the first."""
    for theirs, ours in head.tied.items():
        if plan.outer + theirs in extra:
            yield plan.outer + theirs, rename(f"model.{ours}", plan.names)
    doubles = [plan.outer + key for key in head.doubles]
    if doubles and doubles[0] in expected:
        yield from ((key, doubles[0]) for key in doubles if key in extra)


def _lacking(
    plan: Plan, table: Sequence[Slot], shapes: Mapping[str, Sequence[int]], own: bool, reshaped: bool
) -> list[Slot]:
    """The slots of the head, and of an optional part of the model, that the file has nothing for."""
    optional = tuple(f"model.{_part(key)}." for key in plan.family.optional.values())
    groups: dict[str, list[Slot]] = {}
    for slot in table:
        if not slot.path.startswith("model."):
            groups.setdefault("", []).append(slot)
        elif slot.path.startswith(optional):
            groups.setdefault(slot.path.split(".")[1], []).append(slot)
    lacking = []
    for group in groups.values() if any(slot.path.startswith("model.") for slot in table) else ():
        if not own and not any(place.key in shapes for slot in group for place in slot.places):
            lacking += group
        elif reshaped:
            lacking += [
                slot
                for slot in group
                if any(
                    tuple(shapes.get(place.key, ())) != slot.whole_shape(place)
                    for place in slot.places
                    if place.key in shapes
                )
            ]
    return lacking


def _part(key: str) -> str:
    """The part of the model that one of its keys belongs to: the pooler."""
    return key.split(".")[0]


def outer_place(anchor: str, keys: Sequence[str]) -> str:
    """What the file puts before the key of a tensor that each has; nothing where it is not found."""
    prefixes = [key.removesuffix(anchor) for key in keys if key == anchor or key.endswith(f".{anchor}")]
    if "" in prefixes or not prefixes:
        return ""
    if len(prefixes) > 1:
        raise ValueError(
            f"the file holds {len(prefixes)} encoders, under {', '.join(map(repr, prefixes))}: names=[('^', "
            f"{prefixes[0]!r})] takes the first, and ignore=['{prefixes[1]}*'] leaves the other out"
        )
    return prefixes[0]


def _prefixing(prefix: str) -> Names:
    return ((r"^", prefix),) if prefix else ()
