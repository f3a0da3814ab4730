"""How the tensors of one checkpoint become a module: by which names, and what is left out."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from jax_attn.weights.config import matches
from jax_attn.weights.family import Family
from jax_attn.weights.rules import Names, rename


@dataclass(frozen=True)
class Plan:
    """How the tensors of one checkpoint become a module.

    Attributes:
        names: what turns our keys into those of the file; see `slots`.
        settings: what the file's keys say of the model: parts that it has not.
        left_out: keys of the file that the module has no use for.
        notes: what the user should know of it, in a few words each.
        others: what the keys of each part begin with that a file may have and the module not.
        doubles: keys that are passed over where the module has none of that name.
    """

    names: Names
    settings: Mapping[str, Any] = field(default_factory=dict)
    left_out: Sequence[str] = ()
    notes: Sequence[str] = ()
    others: Sequence[str] = ()
    doubles: Sequence[str] = ()

    def not_for(self, expected: Collection[str], keys: Sequence[str]) -> tuple[list[str], list[str]]:
        """Those of `keys` that a module is loaded without, whose own keys are `expected`.

        Returns:
            the keys that are passed over, and those of whole parts that the module has not.
        """
        beginnings = tuple(part for part in self.others if not any(key.startswith(part) for key in expected))
        parts = [key for key in keys if key.startswith(beginnings)]
        return [key for key in self.doubles if key not in expected], parts


def plan_for(family: Family, architecture: str, keys: Sequence[str], names: Names) -> Plan:
    """The plan for a file with these keys.

    Args:
        family: its family.
        architecture: the class to build.
        keys: those of the file.
        names: the user's, applied after ours.

    Raises:
        ValueError: there are several models in it.
    """
    old = family.old_names if any(key.endswith(new) for _, new in family.old_names for key in keys) else ()
    base = [*family.names, *old, *names]
    place = outer_place(rename(family.anchor, base), keys)
    with_head = architecture in family.heads
    inner = family.keys(architecture)[-1][1] if with_head else family.prefix
    outer = place.removesuffix(inner)  # what wrappers put before all keys
    if with_head:
        bare = place == outer  # the file of a model without a head
        head_names = family.keys(architecture)[len(family.names) : -1]
        in_file = [*base, *head_names, (r"^model\.", "" if bare else inner), *_prefixing(outer)]
    else:
        in_file = [*base, *_prefixing(place)]

    notes = [f"took the prefix {outer!r} off the names of the weights"] if outer else []
    beginnings = tuple(outer + each for each in family.others)
    heads = [key for key in keys if key.startswith(beginnings) and not with_head]
    if heads:
        notes.append(f"left out the head of another task: {', '.join(heads)}")
    settings, parts = {}, []
    if with_head:
        missing = {name: rename(key, in_file) for name, key in family.heads[architecture].optional.items()}
        settings = {name: False for name, key in missing.items() if key not in keys}
    for setting, key in family.optional.items():
        in_base = rename(f"model.{key}" if with_head else key, in_file)
        parts.append(f"{in_base.rpartition('.')[0]}.")
        if in_base not in keys:
            settings[setting] = False
            if not with_head:
                notes.append(f"built with {setting}=False, since the checkpoint has no {in_base}")
    known = [place + constant for constant in family.constants]
    constants = [key for key in keys if matches(key, known)]
    left_out = [*constants, *heads]
    if not with_head:
        return Plan(in_file, settings, left_out, notes)
    head = family.heads[architecture]
    doubles = [outer + key for key in head.doubles]
    others = [*beginnings, *parts, *(outer + key for key in head.others)]
    return Plan(in_file, settings, left_out, notes, others, doubles)


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
